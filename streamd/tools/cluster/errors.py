"""Errors of `streamd cluster`."""


class ClusterCommandError(Exception):
    """The cluster cannot be read or changed; the message has the reason."""
