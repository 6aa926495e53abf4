"""Tests `streamd/http/wire/event_stream.py`: the text of server-sent events."""

from streamd.http.wire.event_stream import make_event


def test_an_event_has_its_name_and_its_data_and_ends_with_an_empty_line() -> None:
    assert make_event("alerts", b"{}") == b"event: alerts\ndata: {}\n\n"


def test_an_event_that_a_reader_can_continue_after_has_its_id() -> None:
    assert make_event("forecast", b"{}", 7) == b"id: 7\nevent: forecast\ndata: {}\n\n"
