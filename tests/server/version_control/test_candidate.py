"""Tests `streamd/server/version_control/candidate.py` in a process; also ensembles and two daemons."""

import asyncio
import json
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np

from streamd.core.scheduling.canary import CanaryAssignment
from tests.support.daemon_process import DaemonProcess
from tests.support.served_versions import (
    AUTHORIZED,
    CALENDAR,
    CONTRACT,
    FIRST_STEP,
    WINDOW,
    expected_of,
    make_version,
    samples_of,
)
from tests.support.tiny_version import ENGINES, SHIPPED_CONTRACT
from tests.support.version_calls import (
    CANDIDATE,
    StartDaemon,
    predict,
    promote,
    read_serving,
    start_candidate,
    start_ready,
)


async def collect_forecasts(daemon: DaemonProcess, servers: int, steps: Sequence[int]) -> dict[tuple[int, int], str]:
    """Send rows step by step and read the forecast of each, whose values must be those of its version.

    Returns the name of the version by server number and step.
    """
    made: dict[tuple[int, int], str] = {}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(daemon.url + "/v1/forecasts") as reader,
        session.ws_connect(daemon.url + "/v1/ingest") as agent,
    ):
        await reader.send_json({"type": "subscribe", "servers": ["s*"]})
        assert (await reader.receive_json())["type"] == "subscribed"
        for step in steps:
            sent = [each for number in range(servers) for each in samples_of(number, [step])]
            await agent.send_str(json.dumps({"samples": sent}))
            assert (await agent.receive_json())["accepted"] == servers
            if step - FIRST_STEP < CONTRACT.context_length - 1:
                continue
            while sum(each == step for _, each in made) < servers:
                message = await reader.receive_json()
                assert message["type"] == "forecast"
                number = int(message["server"][1:])
                assert message["origin"] == (step + 1) * CONTRACT.step_seconds
                assert (number, step) not in made
                made[number, step] = message["model"]
                values = np.asarray(message["values"], np.float32)
                np.testing.assert_array_equal(values, expected_of(message["model"], number, step))
    return made


SERVERS = 20
STEPS = range(FIRST_STEP, FIRST_STEP + 10)


def test_a_canary_has_its_share_until_it_is_ended_or_promoted(
    start: StartDaemon, tmp_path: Path, engines: Path
) -> None:
    daemon = start_ready(start, tmp_path, STREAMD_CANDIDATE=CALENDAR, STREAMD_CANDIDATE_SHARE="0.5")
    daemon.wait_for("candidate_begun")
    ours = {number for number in range(SERVERS) if CanaryAssignment(CALENDAR, 0.5).includes(f"s{number}")}
    assert 0 < len(ours) < SERVERS
    made = asyncio.run(collect_forecasts(daemon, SERVERS, STEPS))
    assert made == {(number, step): CALENDAR if number in ours else WINDOW for number, step in made}
    shown = daemon.get("/v1/status")[1]
    rows = shown["rows"]
    assert rows["due"] == rows["delivered"] == len(made)
    assert shown["candidate"]["rows"]["delivered"] == len(ours) * (len(STEPS) - 3)
    assert (shown["candidate"]["version"], shown["candidate"]["share"]) == (CALENDAR, 0.5)
    versions = shown["accuracy"]["versions"]
    assert {name: version["shadow"] for name, version in versions.items()} == {CALENDAR: False, WINDOW: False}
    while not all(version["scored_steps"] > 0 for version in versions.values()):  # the daemon scores once a second
        versions = daemon.get("/v1/status")[1]["accuracy"]["versions"]
    assert all(f'version="{name}"' in daemon.get("/metrics")[1] for name in (CALENDAR, WINDOW))
    # 2. After its end the other version has its servers; as a candidate again it is promoted, and serves all of them.
    status, answer = daemon.call("DELETE", CANDIDATE, **AUTHORIZED)
    assert (status, answer) == (200, {"ended": CALENDAR})
    assert daemon.get("/v1/status")[1]["candidate"] is None
    later = range(STEPS[-1] + 1, STEPS[-1] + 3)
    assert set(asyncio.run(collect_forecasts(daemon, SERVERS, later)).values()) == {WINDOW}
    assert start_candidate(daemon, share=0.25)[0] == 200
    assert predict(daemon) == WINDOW, "callers get the serving version"
    assert promote(daemon, CALENDAR)[0] == 200
    shown = daemon.get("/v1/status")[1]
    assert (shown["engine"], shown["candidate"], shown["previous"]["engine"]) == (CALENDAR, None, WINDOW)
    assert sum(line["event"] == "engine_switched" for line in daemon.lines) == 0
    later = range(later[-1] + 1, later[-1] + 3)
    assert set(asyncio.run(collect_forecasts(daemon, SERVERS, later)).values()) == {CALENDAR}
    rows = daemon.get("/v1/status")[1]["rows"]
    assert rows["due"] == rows["delivered"] == len(made) + 4 * SERVERS


def test_a_shadow_is_compared_and_never_delivered(start: StartDaemon, tmp_path: Path, engines: Path) -> None:
    daemon = start_ready(start, tmp_path)
    assert start_candidate(daemon, share=1.0, shadow=True)[0] == 200
    made = asyncio.run(collect_forecasts(daemon, SERVERS, STEPS))
    assert set(made.values()) == {WINDOW}
    shown = daemon.get("/v1/status")[1]
    while shown["candidate"]["rows"]["delivered"] + shown["candidate"]["rows"]["superseded"] < len(made):
        shown = daemon.get("/v1/status")[1]
    assert shown["rows"]["due"] == shown["rows"]["delivered"] == len(made)
    while not shown["accuracy"]["comparisons"]:  # the daemon scores once a second
        shown = daemon.get("/v1/status")[1]
    (compared,) = shown["accuracy"]["comparisons"]
    assert {compared["first"], compared["second"]} == {WINDOW, CALENDAR}
    assert shown["accuracy"]["versions"][CALENDAR]["shadow"] is True


def test_a_version_that_cannot_be_a_candidate_is_refused(start: StartDaemon, tmp_path: Path, engines: Path) -> None:
    daemon = start_ready(start, tmp_path, STREAMD_CANDIDATE="nowhere_20260103_000000")
    assert daemon.wait_for("reload_failed")["engine"] == "nowhere_20260103_000000"
    make_version(engines, "longer_20260103_000000", "decoder_cont", replace(CONTRACT, context_length=5))
    for version, expected, message in (
        ("longer_20260103_000000", 409, "needs a restart"),
        (WINDOW, 409, "serves already"),
        ("nowhere_20260103_000000", 422, "no engine version"),
    ):
        status, answer = start_candidate(daemon, version, share=0.5)
        assert (status, bool(re.search(message, answer["message"]))) == (expected, True), answer
        assert daemon.get("/v1/status")[1]["candidate"] is None
    for body in ({"share": 0.5}, {"version": CALENDAR, "share": 1.5}, {"version": CALENDAR, "share": -0.1}):
        assert daemon.call("POST", CANDIDATE, body, **AUTHORIZED)[0] == 400
    assert daemon.call("POST", CANDIDATE, {"version": CALENDAR})[0] == 401
    assert daemon.call("DELETE", CANDIDATE)[0] == 401
    assert daemon.call("DELETE", CANDIDATE, **AUTHORIZED) == (200, {"ended": None})
    assert read_serving(daemon) == WINDOW


# ---------------------------------------------------------------- ensembles
def test_an_ensemble_is_the_mean_of_its_members(start: StartDaemon, tmp_path: Path, engines: Path) -> None:
    daemon = start_ready(start, tmp_path, STREAMD_ENSEMBLE=f"{CALENDAR},{WINDOW}")
    name = f"ensemble({CALENDAR},{WINDOW})"
    assert read_serving(daemon) == name
    window = [[float(row * 4 + column) for column in range(4)] for row in range(4)]
    future = [[-1.0, -0.5, 0.5, 1.0]] * 4
    status, answer = daemon.call("POST", "/predict", {"encoder_cont": window, "decoder_cont": future})
    assert (status, answer["model"]) == (200, name)
    np.testing.assert_array_equal(answer["predictions"], (np.array(window) + np.array(future)) / 2)
    status, answer = promote(daemon, WINDOW)
    assert (status, answer["code"]) == (409, "reload_refused"), "the settings pin the version"


def test_an_ensemble_of_versions_with_different_contracts_is_refused(
    start: StartDaemon, tmp_path: Path, engines: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    daemon = start_ready(start, tmp_path, "--config", str(config))
    make_version(engines, "longer_20260103_000000", "decoder_cont", replace(CONTRACT, context_length=5))
    config.write_text(f'[engine]\nensemble = ["{WINDOW}", "longer_20260103_000000"]\n')
    daemon.signal(signal.SIGHUP)
    assert "context_length differ" in daemon.wait_for("reload_failed")["error"]
    config.write_text(f'[engine]\nensemble = ["{WINDOW}", "{CALENDAR}"]\n')
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("engine_switched")
    assert read_serving(daemon) == f"ensemble({WINDOW},{CALENDAR})"


# ---------------------------------------------------------------- two daemons side by side
def test_two_daemons_with_different_settings_give_the_same_answer(start: StartDaemon, tmp_path: Path) -> None:
    """Compare one lane of two threads with two lanes: a change of backend may not change an answer."""
    config = tmp_path / "config.toml"
    config.write_text("[engine]\nthreads_per_lane = 2\n")
    first = start(tmp_path / "first", "--config", str(config), STREAMD_BACKEND="auto", STREAMD_ENGINES=str(ENGINES))
    second = start(tmp_path / "second", STREAMD_LANES="2", STREAMD_ENGINES=str(ENGINES))
    random = np.random.default_rng(7)
    inputs = {
        name: random.random((5, *shape), np.float32) if name.endswith("cont") else np.zeros((5, *shape), np.int32)
        for name, shape in SHIPPED_CONTRACT.input_shapes.items()
    }
    tensors = {
        name: {"shape": list(each.shape), "dtype": each.dtype.name, "data": each.tobytes()}
        for name, each in inputs.items()
    }
    answers = []
    for daemon in (first, second):
        daemon.wait_for("ready")
        answer = asyncio.run(_post_predict(daemon, msgspec.msgpack.encode({"inputs": tensors})))
        shown = answer["outputs"]["predictions"]
        answers.append((answer["model"], np.frombuffer(shown["data"], shown["dtype"]).reshape(shown["shape"])))
    assert answers[0][0] == answers[1][0]
    assert answers[0][1].shape == (5, *SHIPPED_CONTRACT.output_shape)
    np.testing.assert_allclose(answers[0][1], answers[1][1], rtol=1e-4, atol=1e-5)


async def _post_predict(daemon: DaemonProcess, body: bytes) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.post(daemon.url + "/predict", data=body, headers={"Content-Type": "application/msgpack"}) as response,
    ):
        assert response.status == 200
        return msgspec.msgpack.decode(await response.read())
