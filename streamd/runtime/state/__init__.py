"""The mapped files behind `core/state`: opened, recovered, migrated, written through."""
