"""Checks alert rules and judges them on recorded fleets, without a daemon: `streamd alerts`.

Uses `streamd/core/alerts/` as the daemon does, so that what is judged here is what fires there.
"""
