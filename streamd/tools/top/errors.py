"""The error of a daemon that does not answer. Imports nothing, so that `--help` is quick."""


class NoStatusError(Exception):
    """The daemon is away, refuses the token, or is not a streamd."""
