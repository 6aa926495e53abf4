"""Runs networks: lanes for the daemon, runners for the library, one package for each backend.

Only the composition root and `api/backends.py` name a concrete backend.
"""
