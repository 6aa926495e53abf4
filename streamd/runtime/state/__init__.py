"""The mapped files behind `core/state`: opened, repaired, migrated and flushed."""
