"""Builds TensorRT plans from graphs: parser, profiles, stages, one process or several side by side.

Nothing here judges a plan or writes a version; `gate` and `output` do that.
"""
