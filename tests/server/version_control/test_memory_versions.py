"""Tests `streamd/server/version_control`: versions with and without a memory follow each other in one daemon.

Real graphs in ONNX Runtime; each forecast is computed by hand from a week that was replayed.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import msgspec
import numpy as np
import pytest

from streamd.core.contract import MEMORY_INPUT, ModelContract
from tests.support.daemon_process import DaemonProcess
from tests.support.memory_version import Array, compute_memory_forecast, make_memory_version
from tests.support.memory_week import (
    FIRST,
    LAST,
    PERIOD,
    PLAIN,
    REMEMBERS,
    WEEK_CONTRACT,
    WEEK_SETTINGS,
    expect_forecast,
    make_week,
    read_forecast,
    send_week,
)
from tests.support.version_calls import promote, roll_back, start_candidate


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon in which the version without a memory serves, and to which a week was replayed."""
    folder = tmp_path_factory.mktemp("memory")
    make_memory_version(folder / "engines", PLAIN, WEEK_CONTRACT, memory=None, default=True)
    make_memory_version(folder / "engines", REMEMBERS, WEEK_CONTRACT)
    daemon = start(folder)
    rows = make_week()
    send_week(daemon, rows, list(rows))
    yield daemon
    daemon.end()


def start(folder: Path, **env: str) -> DaemonProcess:
    settings = {**WEEK_SETTINGS, "STREAMD_ENGINES": str(folder / "engines"), **env}
    daemon = DaemonProcess.start(folder / "state", env=settings)
    daemon.wait_for("ready")
    return daemon


def test_a_version_that_remembers_finds_the_week_at_its_promotion(replayed: DaemonProcess) -> None:
    rows = make_week()
    expect_forecast(replayed, PLAIN, rows)
    assert replayed.get("/v1/status")[1]["contract"]["memory_length"] == 0
    assert promote(replayed, REMEMBERS)[0] == 200
    assert replayed.get("/v1/status")[1]["contract"]["memory_length"] == 168
    for last in range(LAST + 1, LAST + 1 + PERIOD):
        rows = make_week(last)
        send_week(replayed, rows, [last])
        expect_forecast(replayed, REMEMBERS, rows)
    assert start_candidate(replayed, PLAIN, shadow=True)[0] == 200
    assert replayed.call("DELETE", "/v1/engines/candidate", Authorization="Bearer a token")[0] == 200
    assert roll_back(replayed)[1]["engine"] == PLAIN
    assert start_candidate(replayed, REMEMBERS, share=1.0)[0] == 200
    rows = make_week(LAST + PERIOD + 1)
    send_week(replayed, rows, [LAST + PERIOD + 1])
    expect_forecast(replayed, REMEMBERS, rows)


def make_inputs(contract: ModelContract) -> dict[str, Any]:
    """Make three windows of small numbers, the second of which remembers only an hour."""
    random = np.random.default_rng(6)
    inputs = {
        name: random.integers(0, 9, (3, *shape)).astype(np.int32 if name.endswith("_cat") else np.float32)
        for name, shape in contract.input_shapes.items()
    }
    inputs[MEMORY_INPUT][1, 1:] = np.nan
    return inputs


def as_lists(inputs: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({name: each.tolist() for name, each in inputs.items()}).replace("NaN", "null"))  # type: ignore[no-any-return]


def post_tensors(daemon: DaemonProcess, inputs: dict[str, Any]) -> Array:
    """Send tensors in MessagePack, as most callers do, and return the predictions."""
    tensors = {
        name: {"shape": list(each.shape), "dtype": each.dtype.name, "data": each.tobytes()}
        for name, each in inputs.items()
    }
    body = msgspec.msgpack.encode({"inputs": tensors})
    request = Request(f"{daemon.url}/v1/predict", body, {"Content-Type": "application/msgpack"})
    with urlopen(request) as response:
        found = msgspec.msgpack.decode(response.read())["outputs"]["predictions"]
    values: Array = np.frombuffer(found["data"], np.float32).reshape(found["shape"])
    return values


def post_inference(daemon: DaemonProcess, inputs: dict[str, Any]) -> Array:
    """Send inputs by the Open Inference Protocol, and return the predictions."""
    listed = as_lists(inputs)
    tensors = [
        {
            "name": name,
            "shape": list(each.shape),
            "datatype": "FP32" if each.dtype == np.float32 else "INT32",
            "data": listed[name],
        }
        for name, each in inputs.items()
    ]
    status, answer = daemon.call("POST", "/v2/models/streamd/infer", {"inputs": tensors})
    assert status == 200, answer
    (output,) = answer["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def post_lists(daemon: DaemonProcess, inputs: dict[str, Any]) -> Array:
    status, answer = daemon.call("POST", "/v1/predict", as_lists(inputs))
    assert status == 200, answer
    return np.array(answer["predictions"], np.float32)


def list_model_inputs(daemon: DaemonProcess) -> list[str]:
    return [each["name"] for each in daemon.get("/v2/models/streamd")[1]["inputs"]]


def test_callers_may_send_a_memory_whichever_version_serves(replayed: DaemonProcess) -> None:
    replayed.call("DELETE", "/v1/engines/candidate", Authorization="Bearer a token")
    for model in (PLAIN, REMEMBERS):
        assert promote(replayed, model)[0] == 200
        assert (MEMORY_INPUT in list_model_inputs(replayed)) == (model == REMEMBERS)
        for is_given in (True, False):
            inputs = make_inputs(WEEK_CONTRACT)
            memory = inputs[MEMORY_INPUT] if is_given else inputs.pop(MEMORY_INPUT)
            seen = memory if is_given and model == REMEMBERS else np.zeros_like(memory)
            newest = inputs["encoder_cont"][:, -1]
            expected = np.stack(
                [compute_memory_forecast(WEEK_CONTRACT, *each) for each in zip(newest, seen, strict=True)]
            )
            for post in (post_lists, post_tensors, post_tensors, post_inference):  # tensors twice: then they are known
                np.testing.assert_allclose(post(replayed, inputs), expected, rtol=1e-6)
    wrong = as_lists(make_inputs(WEEK_CONTRACT))
    wrong[MEMORY_INPUT][2][167][0] = 1e39
    status, answer = replayed.call("POST", "/v1/predict", wrong)
    assert (status, answer["code"]) == (422, "invalid_tensor")
    refusal = "memory_cont holds inf at [167, 0] of a window, expected a number of magnitude below 1e30"
    assert answer["message"] == refusal
    wrong[MEMORY_INPUT] = wrong[MEMORY_INPUT][:2]
    answer = replayed.call("POST", "/v1/predict", wrong)[1]
    assert answer["message"] == "memory_cont has shape [2, 168, 3], expected [3, 168, 3]"


def test_the_week_survives_a_kill(replayed: DaemonProcess) -> None:
    assert promote(replayed, REMEMBERS)[0] == 200
    assert replayed.state_dir is not None
    send_week(replayed, make_week(), list(make_week()), "db")
    replayed.signal(signal.SIGKILL)
    replayed.wait()
    daemon = start(replayed.state_dir.parent)
    try:
        rows = make_week(LAST + 1)
        send_week(daemon, rows, [LAST + 1], "db")
        expect_forecast(daemon, REMEMBERS, rows, "db")
    finally:
        daemon.end()


def test_a_version_that_remembers_forecasts_without_a_memory_if_none_is_kept(tmp_path: Path) -> None:
    make_memory_version(tmp_path / "engines", REMEMBERS, WEEK_CONTRACT)
    daemon = start(tmp_path, STREAMD_MEMORY="false")
    try:
        assert any(line["event"] == "memory_is_off" and line["engine"] == REMEMBERS for line in daemon.lines)
        rows = make_week(FIRST + 50)
        send_week(daemon, rows, list(rows))
        model, found = read_forecast(daemon, FIRST + 50, "web")
        newest = [np.nan if value is None else value for value in rows[FIRST + 50]]
        seen = np.zeros((0, len(WEEK_CONTRACT.features)))
        assert model == REMEMBERS
        np.testing.assert_allclose(found, compute_memory_forecast(WEEK_CONTRACT, newest, seen), rtol=1e-6)
    finally:
        daemon.end()
