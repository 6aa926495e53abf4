"""Programs beside the daemon: the engine toolchain, training, the load test and recorded fleets.

The daemon never imports them.
"""
