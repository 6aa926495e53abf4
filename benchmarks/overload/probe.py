"""Probes `/healthz` from a process of its own, so that a busy client does not count against the daemon."""

import http.client
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

INTERVAL_SECONDS = 0.05
TIMEOUT_SECONDS = 60.0


@dataclass
class ProbeResult:
    """The seconds until each answer; an answer that is not 200 is an error."""

    seconds: list[float] = field(default_factory=list)
    errors: int = 0

    def percentile(self, share: float) -> float:
        """Return the time that this share of the answers did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


@contextmanager
def probing(port: int, *, on_new_connections: bool = False) -> Iterator[ProbeResult]:
    """Probe while the block runs; the result is complete after it."""
    result = ProbeResult()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_probe, args=(port, theirs, on_new_connections), daemon=True)
    process.start()
    ours.recv()  # it runs
    try:
        yield result
    finally:
        ours.send("stop")
        result.seconds, result.errors = ours.recv()
        process.join()


def probe_health(port: int) -> tuple[int, float]:
    """Ask for `/healthz` once; returns the status, 0 without an answer, and the seconds."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except OSError:
        status = 0
    finally:
        connection.close()
    return status, time.monotonic() - began


def _probe(port: int, pipe: Connection, on_new_connections: bool) -> None:
    seconds, errors = list[float](), 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    pipe.send("runs")
    while not pipe.poll(INTERVAL_SECONDS):
        began = time.monotonic()
        try:
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            response.read()
            errors += response.status != 200
        except OSError:
            errors += 1
            connection.close()
        seconds.append(time.monotonic() - began)
        if on_new_connections:
            connection.close()
    pipe.send((seconds, errors))
