"""The bodies that real agents sent, and running a decoder over one."""

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.recording_sink import RecordingSink

AGENTS = Path(__file__).parents[1] / "fixtures" / "agents"


def read_agent_body(name: str) -> bytes:
    """Return a body by its place, such as `collectd/rates-1`."""
    return (AGENTS / f"{name}.body").read_bytes()


def run_decoder(decode: Callable[[bytes, RecordingSink], Iterator[None]], body: bytes) -> RecordingSink:
    """Return the sink that a decoder filled."""
    sink = RecordingSink()
    for _ in decode(body, sink):
        pass
    return sink


def find_values(sink: RecordingSink, name: str, **labels: str) -> list[float]:
    """Return the values of the series that have this name and, among others, these labels, in order."""
    return [
        value for series, _, value in sink.points if series.name == name and labels.items() <= series.labels.items()
    ]
