"""The formats of what is in the logs and tables of a cluster: those that this release reads, and later ones.

What is damaged is passed over; what a later release wrote is not: its rows would be lost, and its records overwritten.
"""

from streamd.core.errors import MalformedError, StreamdError

LATER_FORMATS = 15
"""A number that is higher by more than this is none of a format: something else was written there."""


class LaterFormatError(StreamdError):
    """A later release has written this, and this one cannot read it: only a node of that release can go on."""


def check_format(found: int, known: int, what: str) -> None:
    """Raise `LaterFormatError` if `what` is of a later format than `known`, `MalformedError` if of none that exists."""
    if known < found <= known + LATER_FORMATS:
        raise LaterFormatError(f"{what} is of format {found}, which a later release writes; this one reads {known}")
    if found != known:
        raise MalformedError(f"{what} is of format {found}, expected {known}")
