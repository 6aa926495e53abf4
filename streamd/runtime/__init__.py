"""The I/O around `core`: the state files, the lanes' threads, and the pipeline and fan-out on the event loop.

Imports `core` and `inference`; does not know HTTP, settings or the model repository.
"""
