"""The error that ends a push. Imports nothing, so that `--help` is quick."""


class PushError(Exception):
    """The daemon is away, or did not take a body."""
