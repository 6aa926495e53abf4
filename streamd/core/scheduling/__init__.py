"""What runs next, in batches of which size, and which lanes are fit to run it."""
