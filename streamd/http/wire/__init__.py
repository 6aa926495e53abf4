"""Bytes to values and back: codecs, bodies, tensors, frames."""
