"""The composition root: configuration, lifecycle, signals, systemd; the only one that names backends."""
