"""Computes the values that rows should have from the samples in Prometheus' own database.

A separate computation, which interpolates the counters at the edges of a step and shares no code with the daemon.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from urllib.parse import quote

import aiohttp
import numpy as np
from numpy.typing import NDArray

from streamd.tools.loadtest.child import HOST
from streamd.tools.scene.metrics import fetch_json
from streamd.tools.scene.rows import SceneRow

RANGE = "30m"
CPU_MODES = {"cpu_user": "user", "cpu_sys": "system", "cpu_iowait": "iowait", "cpu_idle": "idle"}
NETWORK_METRICS = {"net_in": "node_network_receive_bytes_total", "net_out": "node_network_transmit_bytes_total"}
REAL_DEVICES = '{device!~"lo|(veth|docker|br-|virbr|vnet|cni|cali|flannel).*"}'
"""The devices that the daemon's rules count. What a container sends also passes the network card."""

ScrapedSeries = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The times and the values of one series."""
Reduce = Callable[[ScrapedSeries, float, float], float]
"""Computes the value of a series in the step between two times; NaN if it has none."""


async def fetch_truth(
    session: aiohttp.ClientSession, port: int, step_seconds: float, steps: Sequence[int]
) -> dict[int, SceneRow]:
    """Return what the rows of these steps should be, by the samples in Prometheus' database.

    Raises `UnreachableError` if Prometheus does not answer.
    """
    features: dict[str, tuple[list[ScrapedSeries], Reduce, str]] = {}
    for name, mode in CPU_MODES.items():
        cores = await _fetch_series(session, port, f'node_cpu_seconds_total{{mode="{mode}"}}')
        features[name] = cores, rate_counter, "mean"
    for name, metric in NETWORK_METRICS.items():
        features[name] = await _fetch_series(session, port, metric + REAL_DEVICES), rate_counter, "sum"
    features["load_average"] = await _fetch_series(session, port, "node_load1"), average_gauge, "sum"
    available, total = [
        await _fetch_series(session, port, f"node_memory_{name}_bytes") for name in ("MemAvailable", "MemTotal")
    ]
    truth: dict[int, SceneRow] = {}
    for step in steps:
        start, end = step * step_seconds, (step + 1) * step_seconds
        row = {name: _combine_series(each, start, end) for name, each in features.items()}
        for name in CPU_MODES:
            row[name] *= 100.0
        memory = _combine_series((available, average_gauge, "sum"), start, end)
        row["mem_used"] = 100.0 * (1.0 - memory / _combine_series((total, average_gauge, "sum"), start, end))
        truth[step] = row
    return truth


async def fetch_unmeasured_steps(
    session: aiohttp.ClientSession, port: int, step_seconds: float, last_step: int
) -> set[int]:
    """Return the steps for which Prometheus itself lacks samples: on a busy machine a scrape may fail.

    Raises `UnreachableError` if Prometheus does not answer.
    """
    found: set[int] = set()
    for series in await _fetch_series(session, port, "up"):
        found |= find_unmeasured_steps(series, step_seconds, last_step)
    return found


def find_unmeasured_steps(up: ScrapedSeries, step_seconds: float, last_step: int) -> set[int]:
    """Return the steps with a failed scrape, or a pause in scraping longer than a step, and the steps beside them."""
    times, values = up
    bad = set(range(int(times[-1] // step_seconds), last_step + 1))
    good = times[values > 0]
    for start, end in pairwise(good):
        if end - start > step_seconds:
            bad |= set(range(int(start // step_seconds), int(end // step_seconds) + 1))
    bad |= {int(time // step_seconds) for time in times[values <= 0]}
    return {step + beside for step in bad for beside in (-1, 0, 1)}


def find_largest_difference(rows: Mapping[int, SceneRow], truth: Mapping[int, SceneRow]) -> tuple[float, str]:
    """Return the largest difference between rows and the truth, and where it is.

    It is relative to the true value, or to 1 if the true value is smaller. If only one of the two has a value, the
    difference is infinite.
    """
    largest, place = 0.0, ""
    for step, true_row in truth.items():
        for name, true in true_row.items():
            found = rows.get(step, {}).get(name, np.nan)
            if np.isnan(found) and np.isnan(true):
                continue
            difference = abs(found - true) / max(abs(true), 1.0)
            difference = float("inf") if np.isnan(difference) else float(difference)
            if difference > largest:
                largest, place = difference, f"{name} in step {step} is {found:g}, in Prometheus {true:g}"
    return largest, place


def average_gauge(series: ScrapedSeries, start: float, end: float) -> float:
    """Return the mean of the values in a step; NaN without any."""
    times, values = series
    inside = values[(times >= start) & (times < end)]
    return float(inside.mean()) if len(inside) else np.nan


def rate_counter(series: ScrapedSeries, start: float, end: float) -> float:
    """Return the increase of a counter in a step, divided by the seconds that its samples cover."""
    times, values = series
    if len(times) < 2:
        return np.nan
    first, last = max(start, times[0]), min(end, times[-1])
    if last <= first:
        return np.nan
    # Linux sometimes corrects iowait and idle downwards; such a fall counts as no increase.
    risen = np.concatenate([[0.0], np.cumsum(np.maximum(np.diff(values), 0.0))])
    at_first, at_last = np.interp([first, last], times, risen)
    return float((at_last - at_first) / (last - first))


def _combine_series(feature: tuple[list[ScrapedSeries], Reduce, str], start: float, end: float) -> float:
    series, reduce, over = feature
    values = [reduce(each, start, end) for each in series]
    if not values:
        return np.nan
    return float(np.mean(values) if over == "mean" else np.sum(values))


async def _fetch_series(session: aiohttp.ClientSession, port: int, selector: str) -> list[ScrapedSeries]:
    url = f"http://{HOST}:{port}/api/v1/query"
    found = await fetch_json(session, f"{url}?query={quote(f'{selector}[{RANGE}]')}")
    return [
        (
            np.array([float(time) for time, _ in series["values"]]),
            np.array([float(value) for _, value in series["values"]]),
        )
        for series in found["data"]["result"]
    ]
