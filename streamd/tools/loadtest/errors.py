"""What can stop a replay, each with the exit status it ends in. Knows nothing of sockets or files."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of ``scripts/replay.py``."""

    COMPLETE = 0  # everything due was received or superseded
    LOST = 1  # something was missing, duplicated, unacked, not kept, disordered or of the wrong context
    USAGE = 2  # an option or an input file is wrong
    UNREACHABLE = 3  # no daemon answered at the start
    NOTHING = 4  # nothing was lost, and nothing was verified: no row was sent, accepted or due
    INTERRUPTED = 130  # SIGINT, as shells count it


class ReplayError(Exception):
    """Root of what the replayer raises itself."""

    exit = Exit.LOST


class UsageError(ReplayError):
    """An option, a column or a file that can't be used as given."""

    exit = Exit.USAGE


class UnreachableError(ReplayError):
    """No daemon answers, or what answers doesn't speak the contract."""

    exit = Exit.UNREACHABLE


class NothingError(ReplayError):
    """There is nothing to send or to compare, so nothing can be verified."""

    exit = Exit.NOTHING


class LinkLostError(ReplayError):
    """A connection that was open ended, or stopped answering."""
