"""Tests `streamd/cluster/nats/api.py`: times and headers as servers of NATS write them."""

from datetime import UTC, datetime

import pytest

from streamd.cluster.nats.api import parse_headers, parse_time

SECOND = datetime(2026, 11, 30, 2, 3, 4, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "fraction"),
    [("2026-11-30T02:03:04Z", 0.0), ("2026-11-30T02:03:04.5Z", 0.5), ("2026-11-30T02:03:04.000000001Z", 1e-9)],
)
def test_a_time_has_any_number_of_digits(text: str, fraction: float) -> None:
    assert parse_time(text) == pytest.approx(SECOND + fraction, abs=1e-6)


def test_headers_of_a_stored_message_are_read() -> None:
    assert parse_headers(b"NATS/1.0\r\nNats-Msg-Id: a:1\r\nFence:7\r\n\r\n") == {"Nats-Msg-Id": "a:1", "Fence": "7"}
    assert parse_headers(b"") == {}
