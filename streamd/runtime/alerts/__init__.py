"""Alerts with I/O: their thread, their store, and what is sent about them."""
