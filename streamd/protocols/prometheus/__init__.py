"""Decoders of remote write 1.0 and 2.0, and of the text that `promtool tsdb dump` writes. Pure.

`http/protocols/prometheus.py` has the routes.
"""
