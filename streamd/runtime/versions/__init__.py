"""Changes of the version that serves: versions that are loaded beside it, and candidates."""
