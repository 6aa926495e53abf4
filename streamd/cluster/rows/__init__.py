"""Rows and points on their way through the row logs: taken, appended, applied, kept in snapshots."""
