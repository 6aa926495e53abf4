"""Builds TensorRT plans from graphs."""
