"""The error that ends a command about tokens. Imports nothing, so that `--help` is quick."""


class TokenCommandError(Exception):
    """The tokens file cannot be read or written, or has no token of this name."""
