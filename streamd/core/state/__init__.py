"""What the daemon remembers: servers by slot, their windows of rows, and the latest forecast of each."""
