"""Changes of the version that a whole cluster serves."""
