"""The state of the daemon as arrays: servers by slot, their windows of rows, and the latest forecast of each."""
