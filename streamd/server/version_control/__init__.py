"""Decides which version serves: selection, promotion, rollback and candidates of a running daemon."""
