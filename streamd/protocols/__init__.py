"""Decoders of what other agents send: bytes to points of series. Pure: no I/O, no clock.

`http/protocols/` receives the bodies; `core/mapping/` says what the series mean.
"""
