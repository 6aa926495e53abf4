"""Training, export and evaluation of the networks (extra `[train]`).

The daemon never imports this package, and this package never opens an engine version to serve it.
"""
