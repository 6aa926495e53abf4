"""Translates what NATS and its client report into the errors of the log, in one place."""

import re

import msgspec

from streamd.cluster.log import LogAwayError, LogFullError, LogMissingError, LogSettingsError, WrongSequenceError
from streamd.core.errors import StreamdError, TooLargeError

WRONG_LAST_SEQUENCE = 10_071
NO_MESSAGE_FOUND = 10_037
STREAM_NOT_FOUND = 10_059

_FULL = {
    10_023,  # insufficient resources
    10_028,  # resource limits exceeded for account
    10_047,  # insufficient storage resources available
}
_STORE_FAILED = 10_077  # with the reason in words
_FULL_WORDS = ("maximum bytes exceeded", "maximum messages exceeded", "insufficient", "no space")
_TOO_LARGE = 10_054
_NO_PEERS = 10_005  # no suitable peers for placement, with the reason in words from 2.9 on
_TOO_MANY_REPLICAS = {
    _NO_PEERS,
    10_074,  # replicas without a cluster
}
_SETTINGS = {
    10_052,  # invalid settings of a stream
    10_065,  # the subjects overlap with those of another stream
}
_SEQUENCE = re.compile(r"wrong last sequence: (\d+)")


class ApiFault(msgspec.Struct, frozen=True):
    """The reason that JetStream states where it refuses a request."""

    code: int = 0
    err_code: int = 0
    description: str = ""


def translate_fault(fault: ApiFault, place: str) -> StreamdError:
    """Return the error of a refused request; `place` names the stream or subject."""
    message = f"{place}: NATS refuses: {fault.description} ({fault.err_code or fault.code})"
    if fault.err_code == WRONG_LAST_SEQUENCE:
        found = _SEQUENCE.search(fault.description)
        return WrongSequenceError(message, int(found[1]) if found else None)
    if fault.err_code == _TOO_LARGE:
        return TooLargeError(message)
    is_full = fault.err_code in (_STORE_FAILED, _NO_PEERS) and any(w in fault.description for w in _FULL_WORDS)
    if is_full or fault.err_code in _FULL:
        return LogFullError(message)
    if fault.err_code in _TOO_MANY_REPLICAS:
        return LogSettingsError(f"{message}; expected [cluster] replicas to be at most the number of NATS servers")
    if fault.err_code in _SETTINGS:
        return LogSettingsError(message)
    if fault.err_code == STREAM_NOT_FOUND:
        return LogMissingError(message)
    return LogAwayError(message)
