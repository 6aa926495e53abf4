"""A week of rows that is replayed to a daemon, and the forecasts that versions with and without a memory make of it."""

import numpy as np

from tests.support.daemon_process import DaemonProcess
from tests.support.memory_version import Array, compute_memory_forecast, compute_naive_memory, make_memory_contract

WEEK_CONTRACT = make_memory_contract(step_seconds=900, context_length=4)
PERIOD = 4
"""Rows in an hour."""
PLAIN, REMEMBERS = "plain_20260101_000000", "remembers_20260102_000000"
FIRST, LAST = 1_900_002, 1_900_777
"""The steps of the replay: eight days; the last hour is not complete."""
WEEK_SETTINGS = {"STREAMD_MIN_CONTEXT_ROWS": "4", "STREAMD_ADMIN_TOKEN": "a token"}

Week = dict[int, list[float | None]]


def make_week(last: int = LAST) -> Week:
    """Make the rows of a server by step: small numbers, some missing before the last row, and a gap of five hours."""
    random = np.random.default_rng(5)
    rows: Week = {}
    for step in range(FIRST, last + 1):
        values: list[float | None] = [float(random.integers(0, 9)) for _ in WEEK_CONTRACT.features]
        if step < last and step < LAST and random.random() < 0.2:
            values[int(random.integers(0, 3))] = None
        if not FIRST + 200 <= step < FIRST + 220:
            rows[step] = values
    return rows


def send_week(daemon: DaemonProcess, rows: Week, steps: list[int], server: str = "web") -> None:
    columns = {
        "servers": [server] * len(steps),
        "time": [WEEK_CONTRACT.step_seconds * step for step in steps],
        "features": list(WEEK_CONTRACT.features),
        "values": [rows[step] for step in steps],
    }
    status, answer = daemon.call("POST", "/v1/samples", {"columns": columns})
    assert (status, answer["accepted"]) == (200, len(steps)), answer


def read_forecast(daemon: DaemonProcess, step: int, server: str) -> tuple[str, Array]:
    """Wait for the forecast from this step on; returns its model, and its values as the network returns them."""
    while True:
        answer = daemon.get(f"/v1/forecasts/{server}")[1]
        if answer.get("origin") == WEEK_CONTRACT.to_origin(step):
            return answer["model"], np.array(answer["values"], np.float32).transpose(1, 0, 2)


def expect_forecast(daemon: DaemonProcess, model: str, rows: Week, server: str = "web") -> None:
    step = max(rows)
    newest = [np.nan if value is None else value for value in rows[step]]
    memory = compute_naive_memory(rows, step + 1, PERIOD, len(WEEK_CONTRACT.features))
    assert np.isnan(memory).any()
    assert np.isfinite(memory).sum() > 400
    seen = memory if model == REMEMBERS else np.zeros((0, len(WEEK_CONTRACT.features)))
    found_model, found = read_forecast(daemon, step, server)
    assert found_model == model
    np.testing.assert_allclose(found, compute_memory_forecast(WEEK_CONTRACT, newest, seen), rtol=1e-6)
