"""Which version serves: selection, promotion, rollback and candidates of a running daemon."""
