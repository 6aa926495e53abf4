"""Programs beside the daemon, which never imports them: engine toolchain, training, load test, recorded fleets."""
