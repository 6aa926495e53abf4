"""The composition root: configuration, lifecycle, signals, systemd; the only place that names backends."""
