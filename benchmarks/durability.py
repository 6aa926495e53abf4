"""Measures the price of durability: acknowledged rows a second and their latency, by how often the state is flushed.

    python -m benchmarks.durability [--folder DIR] [--seconds 10] [--servers 2000] [--rows 200] [--pause-ms 0]

Bodies of `--rows` samples go to the ingest of a state in `--folder`, one after another, in the process of the
measurement, while a thread flushes the state as the daemon does. No HTTP, no forecasts: their cost would hide it.
With `--pause-ms`, the sender waits between bodies, so that latency is not that of a busy loop.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamd.core.arrays import Slots
from streamd.core.contract import ModelContract
from streamd.core.state.samples import Sample
from streamd.runtime.admission import Admission
from streamd.runtime.ingest import Ingest, IngestLoad
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import State, WindowLimits
from streamd.runtime.state.storage_watch import StorageWatch

INTERVALS_SECONDS = (0.0, 30.0, 1.0, 0.1, 0.01)
"""The flush intervals that are measured; 0: no flush at all."""

FEATURES = tuple(f"feature_{number}" for number in range(14))


class _Nobody:
    """Receives the events of ingest, and does nothing."""

    def mark_due(self, slot: int, rows: int) -> None:
        """Do nothing: no forecasts."""

    def mark_due_many(self, slots: Slots) -> None:
        """Do nothing, as `mark_due`."""

    def forget(self, slot: int) -> None:
        """Do nothing: no data by slot."""

    def contradict(self, slot: int) -> None:
        """Do nothing: no clock is watched."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The result of one interval."""

    flush_interval_seconds: float
    rows_per_second: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    flushes: int
    median_flush_ms: float


class Sender:
    """Sends bodies of samples, each server's next step in turn."""

    def __init__(self, state: State, servers: int, rows: int) -> None:
        self._ingest = Ingest(
            state,
            max_ahead_seconds=float("inf"),
            load=IngestLoad(),
            admission=Admission(state, _Nobody()),
            rows_due=_Nobody(),
            server_contradicted=_Nobody(),
        )
        self._servers, self._rows, self._sent = servers, rows, 0

    async def send(self) -> float:
        """Send one body; returns the seconds until it is acknowledged."""
        samples = [(index, self._make_sample(self._sent + index)) for index in range(self._rows)]
        self._sent += self._rows
        began = time.perf_counter()
        result = await self._ingest.take_samples(samples)
        assert result.accepted == self._rows, result
        return time.perf_counter() - began

    def _make_sample(self, number: int) -> Sample:
        step, server = divmod(number, self._servers)
        values: dict[str, float | None] = {name: float(number + place) for place, name in enumerate(FEATURES)}
        return Sample(server=f"server-{server:05d}", time=300.0 * (1_000 + step), values=values)


async def measure(folder: Path, interval_seconds: float, options: argparse.Namespace) -> Measured:
    """Measure one interval in a new state."""
    contract = ModelContract(FEATURES, FEATURES[:4], (0.1, 0.5, 0.9), context_length=288, horizon=96, step_seconds=300)
    limits = WindowLimits(capacity=options.servers, need=48, late_steps=288, grace_seconds=10.0)
    state = open_state(folder, contract, limits, time.monotonic())
    flushes: list[float] = []
    sender = Sender(state, options.servers, options.rows)
    try:
        for _ in range(2 * options.servers // options.rows):
            await sender.send()  # every slot is reserved and in memory
        state.flush()
        flushing = asyncio.create_task(_flush(state, interval_seconds, flushes))
        latencies, began = [], time.perf_counter()
        while time.perf_counter() - began < options.seconds:
            latencies.append(await sender.send())
            await asyncio.sleep(options.pause_ms / 1e3)
        seconds = time.perf_counter() - began
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
    finally:
        state.close()
    latencies.sort()
    return Measured(
        flush_interval_seconds=interval_seconds,
        rows_per_second=round(len(latencies) * options.rows / seconds),
        p50_ms=round(statistics.median(latencies) * 1e3, 3),
        p99_ms=round(latencies[int(0.99 * len(latencies))] * 1e3, 3),
        longest_ms=round(latencies[-1] * 1e3, 3),
        flushes=len(flushes),
        median_flush_ms=round(statistics.median(flushes) * 1e3, 3) if flushes else 0.0,
    )


async def _flush(state: State, interval_seconds: float, flushes: list[float]) -> None:
    if not interval_seconds:
        return
    watch = StorageWatch(state.folder, state.flush, state.find_shortage)
    while True:
        await asyncio.sleep(interval_seconds)
        await watch.flush_once()
        flushes.append(watch.flush_seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every interval, and write a line of JSON for each."""
    parser = argparse.ArgumentParser(description="Measure the price of flushing the state.")
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure (default: that of temporary files)")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each interval (default: 10)")
    parser.add_argument("--servers", type=int, default=2_000, help="servers that report (default: 2000)")
    parser.add_argument("--rows", type=int, default=200, help="samples in a body (default: 200)")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="wait between two bodies (default: 0)")
    options = parser.parse_args(arguments)
    for interval in INTERVALS_SECONDS:
        with tempfile.TemporaryDirectory(prefix="streamd-durability-", dir=options.folder) as folder:
            found = asyncio.run(measure(Path(folder), interval, options))
        print(json.dumps({name: getattr(found, name) for name in found.__dataclass_fields__}), flush=True)


if __name__ == "__main__":
    main()
