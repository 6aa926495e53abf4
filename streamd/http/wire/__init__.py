"""Bytes to values and back: codecs, bodies of samples, tensors, frames of forecasts.

Knows no request and no connection; only `frames` reads the service, whose forecasts it encodes.
"""
