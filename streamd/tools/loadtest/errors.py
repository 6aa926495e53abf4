"""The errors that can stop a replay, each with the exit status it leads to. Knows nothing of sockets or files."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit statuses of `streamd replay`."""

    COMPLETE = 0
    """Every due row was received or superseded."""
    LOST = 1
    """Something was missing, duplicated, unacknowledged, not kept, out of order or of the wrong context."""
    USAGE = 2
    """An option or an input file is wrong."""
    UNREACHABLE = 3
    """No daemon answered at the start."""
    NOTHING = 4
    """Nothing was lost and nothing was verified: no row was sent, accepted or due."""
    INTERRUPTED = 130
    """Stopped by SIGINT; shells use this number."""


class ReplayError(Exception):
    """The root of the load test's own errors."""

    exit = Exit.LOST


class UsageError(ReplayError):
    """An option, a column or a file that cannot be used as given."""

    exit = Exit.USAGE


class UnreachableError(ReplayError):
    """No daemon answers, or the answer is not of the wire contract."""

    exit = Exit.UNREACHABLE


class NothingError(ReplayError):
    """There is nothing to send or to compare, so nothing can be verified."""

    exit = Exit.NOTHING


class LinkLostError(ReplayError):
    """A connection that was open has ended, or no longer answers."""
