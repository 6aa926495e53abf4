"""Changes of what serves: versions loaded beside each other, and candidates."""
