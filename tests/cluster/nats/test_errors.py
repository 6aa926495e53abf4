"""Tests `streamd/cluster/nats/errors.py`: which error of the log each refusal of JetStream becomes."""

import pytest

from streamd.cluster.log import LogAwayError, LogFullError, LogMissingError, LogSettingsError, WrongSequenceError
from streamd.cluster.nats.errors import ApiFault, translate_fault
from streamd.core.errors import StreamdError, TooLargeError


@pytest.mark.parametrize(
    ("code", "err_code", "description", "expected"),
    [
        (400, 10_071, "wrong last sequence: 7", WrongSequenceError),
        (503, 10_077, "maximum bytes exceeded", LogFullError),
        (503, 10_077, "stream is being restored", LogAwayError),
        (400, 10_005, "no suitable peers for placement, insufficient storage", LogFullError),
        (500, 10_047, "insufficient storage resources available", LogFullError),
        (400, 10_054, "message size exceeds maximum allowed", TooLargeError),
        (500, 10_065, "subjects overlap with an existing stream", LogSettingsError),
        (404, 10_059, "stream not found", LogMissingError),
        (503, 10_008, "JetStream system temporarily unavailable", LogAwayError),
    ],
)
def test_a_refusal_becomes_its_error(code: int, err_code: int, description: str, expected: type[StreamdError]) -> None:
    error = translate_fault(ApiFault(code, err_code, description), "stream s")
    assert type(error) is expected
    assert str(error) == f"stream s: NATS refuses: {description} ({err_code})"


def test_too_many_replicas_are_named_by_their_setting() -> None:
    error = translate_fault(ApiFault(500, 10_074, "replicas > 1 not supported in non-clustered mode"), "stream s")
    assert isinstance(error, LogSettingsError)
    assert str(error).endswith("expected [cluster] replicas to be at most the number of NATS servers")


def test_the_last_sequence_comes_with_the_error() -> None:
    error = translate_fault(ApiFault(400, 10_071, "wrong last sequence: 7"), "s")
    assert isinstance(error, WrongSequenceError)
    assert error.last == 7
    unknown = translate_fault(ApiFault(400, 10_071, "wrong last sequence"), "s")
    assert isinstance(unknown, WrongSequenceError)
    assert unknown.last is None
