"""The page in a real browser, on a fleet of 20,000 servers: frames, heap, and what the daemon's loop pays for it."""
