"""Tests `streamd/runtime/aggregation/mean_samples.py` over real sockets: each form of plain samples, as means."""

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.runtime.aggregation.collector import Collector
from streamd.runtime.service import ServiceLimits
from tests.support.http_harness import (
    CONTRACT,
    JSON,
    MSGPACK,
    TYPES,
    HttpDaemon,
    HttpDaemonSettings,
    Message,
    at,
    make_tensor,
    run_http_daemon,
)

FEATURES = CONTRACT.features
Cell = float | None


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[HttpDaemon]:
    settings = HttpDaemonSettings(service_limits=ServiceLimits(rows_are_means=True, max_series=12, max_points=400))
    async with run_http_daemon(tmp_path, settings) as daemon:
        yield daemon


def make_values(number: int) -> dict[str, Cell]:
    """Return values of which some are missing."""
    return {
        name: None if (number + place) % 4 == 3 else float(number * 10 + place) for place, name in enumerate(FEATURES)
    }


def make_columns(samples: list[Message], as_tensor: bool) -> Message:
    rows = [[sample["values"][name] for name in FEATURES] for sample in samples]
    matrix: Any = rows
    if as_tensor:
        matrix = make_tensor(np.array([[math.nan if cell is None else cell for cell in row] for row in rows], "<f8"))
    return {
        "columns": {
            "servers": [sample["server"] for sample in samples],
            "time": [sample["time"] for sample in samples],
            "features": list(FEATURES),
            "values": matrix,
        }
    }


def compute_naively(sent: list[Message], server: str) -> dict[int, list[float]]:
    """Return the mean of each feature by step; of samples with the same time the last one counts."""
    cells: defaultdict[tuple[int, str], dict[float, float]] = defaultdict(dict)
    for sample in sent:
        if sample["server"] == server:
            for name, value in sample["values"].items():
                if value is not None:
                    cells[int(sample["time"]) // CONTRACT.step_seconds, name][sample["time"]] = value
    steps = sorted({step for step, _ in cells})
    return {
        step: [
            sum(found.values()) / len(found) if (found := cells.get((step, name))) else math.nan for name in FEATURES
        ]
        for step in steps
    }


async def test_each_form_of_samples_makes_the_same_rows(daemon: HttpDaemon) -> None:
    """They come late, out of order, twice, and with missing values."""
    order = [(step, part) for step in range(6) for part in (30, 5, 50, 5)]
    sent: list[Message] = []
    forms = (
        lambda samples: daemon.post("/v1/samples", {"samples": samples}),
        lambda samples: daemon.post("/v1/samples", {"samples": samples}, MSGPACK),
        lambda samples: daemon.post("/v1/samples", make_columns(samples, False)),
        lambda samples: daemon.post("/v1/samples", make_columns(samples, True), MSGPACK),
    )
    async with daemon.socket("/v1/ingest", JSON) as lines, daemon.socket("/v1/ingest", MSGPACK) as frames:
        for number, (step, part) in enumerate(order):
            samples = [
                {"server": server, "time": at(step) + part + shift, "values": make_values(number + shift)}
                for server in ("a", "b")
                for shift in (2, 0)
            ]
            sent += samples
            if number % 6 < 4:
                assert (await forms[number % 6](samples)).body["accepted"] == 4
            else:
                ack = await (lines if number % 6 == 4 else frames).ask({"samples": samples})
                assert ack["accepted"] == 4
            if step:
                late = [{"server": "a", "time": at(step - 1) + 59, "values": make_values(number)}]
                sent += late
                assert (await daemon.post("/v1/samples", {"samples": late})).body["accepted"] == 1
    for server in ("a", "b"):
        expected = compute_naively(sent, server)
        window = await daemon.window(server)
        for age, step in enumerate(sorted(expected)[-2::-1]):
            np.testing.assert_allclose(window[-1 - age], expected[step], rtol=1e-6)


@pytest.mark.parametrize("content_type", TYPES)
async def test_bad_samples_get_their_errors_and_good_ones_are_taken(daemon: HttpDaemon, content_type: str) -> None:
    good = {"server": "a", "time": at(5), "values": {"cpu_user": 1.0}, "status": 2}
    bad: list[tuple[str, Message]] = [
        ("too_old", {**good, "time": at(1)}),
        ("too_far_ahead", {**good, "time": 1e11}),
        ("invalid_server", {**good, "server": "x" * 257}),
        ("invalid_server", {**good, "server": ""}),
        ("invalid_value", {**good, "values": {"cpu_user": 1e300}}),
        ("invalid_time", {**good, "time": -1.0}),
    ]
    await daemon.accept([good])
    reply = await daemon.post("/v1/samples", {"samples": [good, *(sample for _, sample in bad), good]}, content_type)
    assert (reply.body["accepted"], reply.body["rejected"]) == (2, len(bad))
    assert [(error["index"], error["code"]) for error in reply.body["errors"]] == [
        (index, code) for index, (code, _) in enumerate(bad, 1)
    ]
    await daemon.accept([{**good, "time": at(6), "status": 1}])
    assert (await daemon.window("a"))[-1][0] == 1.0


async def test_a_sample_for_which_there_is_no_space_is_rejected_as_a_whole(daemon: HttpDaemon) -> None:
    values = dict.fromkeys(FEATURES, 1.0)
    names = [f"server-{number}" for number in range(5)]
    samples = [{"server": name, "time": at(1), "values": values} for name in names]
    reply = await daemon.post("/v1/samples", {"samples": samples})
    assert reply.body["accepted"] == 4
    assert [(error["index"], error["code"]) for error in reply.body["errors"]] == [(4, "too_busy")]
    collector: Collector = daemon.service.collector
    many = [{"server": names[0], "time": at(1) + part / 100, "values": values} for part in range(200)]
    assert (await daemon.post("/v1/samples", {"samples": many})).body["accepted"] == 200
    assert collector.points_kept >= 400
    reply = await daemon.post("/v1/samples", {"samples": samples[:1]})
    assert [error["code"] for error in reply.body["errors"]] == ["too_busy"]


async def test_many_bodies_at_once(daemon: HttpDaemon) -> None:
    bodies = [
        [{"server": "a", "time": at(1) + number + part / 8, "values": {"cpu_user": float(number)}} for part in range(4)]
        for number in range(30)
    ]
    replies = await asyncio.gather(*(daemon.post("/v1/samples", {"samples": body}) for body in bodies))
    assert [reply.body["accepted"] for reply in replies] == [4] * 30
    await daemon.accept([{"server": "a", "time": at(2), "values": {"cpu_user": 0.0}}])
    assert (await daemon.window("a"))[-1][0] == 14.5


async def test_samples_of_servers_without_a_slot_are_rejected_one_by_one(tmp_path: Path) -> None:
    settings = HttpDaemonSettings(capacity=2, service_limits=ServiceLimits(rows_are_means=True))
    async with run_http_daemon(tmp_path, settings) as daemon:
        for body in range(2):
            samples = [{"server": server, "time": at(1) + body, "values": make_values(1)} for server in "abcbd"]
            reply = (await daemon.post("/v1/samples", {"samples": samples})).body
            assert (reply["accepted"], reply["rejected"]) == (3, 2)
            assert [(each["index"], each["code"]) for each in reply["errors"]] == [
                (2, "no_capacity"),
                (4, "no_capacity"),
            ]
        assert daemon.service.collector.table.servers.keys() == {"a", "b"}
