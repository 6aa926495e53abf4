"""Tests `streamd/http/routes/forecasts.py` and the other routes with forecasts: targets that are not known.

Each form says that a target is unknown, and none has a number of it.
"""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.http_harness import (
    CONTRACT,
    JSON,
    MSGPACK,
    NEED,
    TYPES,
    HttpDaemon,
    Message,
    make_rows,
    make_sample,
    make_window,
    make_wire_forecast,
    origin,
    read_array,
)
from tests.support.open_inference import infer, read_forecasts
from tests.support.predict_inputs import Inputs, as_lists, as_tensors, make_inputs

HALF = [make_sample("half", step, {"cpu_user": 5.0 + step}) for step in range(NEED)]
WHOLE = make_rows("whole", 3, range(NEED))
CPU = make_wire_forecast(make_window(HALF, NEED - 1))[0]


@pytest.fixture
async def fed(daemon: HttpDaemon) -> HttpDaemon:
    """Return a daemon with a forecast of a server that never sent `load_average`, and of one that sent all."""
    await daemon.accept([*HALF, *WHOLE])
    await daemon.service.pipeline.wait_idle()
    return daemon


def check_half(message: Message, content_type: str, dtype: str = "float32") -> None:
    """Check the forecast of the server that never sent `load_average`."""
    assert message["unknown"] == ["load_average"]
    assert message["targets"] == ["cpu_user", "load_average"]
    if content_type == JSON:
        cpu, load = message["values"]
        assert load is None
        np.testing.assert_array_equal(np.array(cpu, dtype), CPU.astype(dtype))
        return
    values = read_array(message["values"])
    assert message["values"]["dtype"] == dtype
    np.testing.assert_array_equal(values[0], CPU.astype(dtype))
    assert np.isnan(values[1]).all()


# ---------------------------------------------------------------- one forecast
@pytest.mark.parametrize("content_type", TYPES)
async def test_the_latest_forecast_says_what_is_unknown(fed: HttpDaemon, content_type: str) -> None:
    check_half((await fed.get("/v1/forecasts/half", content_type)).body, content_type)
    assert "unknown" not in (await fed.get("/v1/forecasts/whole", content_type)).body


@pytest.mark.parametrize("content_type", TYPES)
async def test_only_chosen_targets_are_named(fed: HttpDaemon, content_type: str) -> None:
    path = "/v1/forecasts/half?targets="
    assert "unknown" not in (await fed.get(f"{path}cpu_user&every=2", content_type)).body
    body = (await fed.get(f"{path}load_average,cpu_user&quantiles=0.9&every={CONTRACT.horizon}", content_type)).body
    assert body["unknown"] == ["load_average"]
    if content_type == JSON:
        assert body["values"][0] is None
        body["values"][0] = [[np.nan]]
    np.testing.assert_array_equal(read_array(body["values"]), [[[np.nan]], [[CPU[-1, 2]]]])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("content_type", TYPES)
async def test_a_subscriber_is_given_the_names(daemon: HttpDaemon, content_type: str, dtype: str) -> None:
    async with daemon.subscribed(content_type, servers=["half"], dtype=dtype) as reader:
        await daemon.accept(HALF)
        check_half(await reader.receive(), content_type, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("content_type", TYPES)
async def test_a_batch_frame_has_a_list_for_each_server(fed: HttpDaemon, content_type: str, dtype: str) -> None:
    async with fed.subscribed(content_type, batch=True, dtype=dtype, ids=True, last_event_id=0) as reader:
        message = await reader.receive()
    servers = message["servers"]
    assert sorted(servers) == ["half", "whole"]
    half = servers.index("half")
    assert message["unknown"][half] == ["load_average"]
    assert message["unknown"][1 - half] == []
    if content_type == JSON:
        single: Any = message["values"][half]
        assert np.isfinite(np.array(message["values"][1 - half])).all()
    else:
        single = {**message["values"], "shape": message["values"]["shape"][1:]}
        size = len(single["data"]) // 2
        single["data"] = single["data"][half * size : (half + 1) * size]
        assert np.isfinite(read_array(message["values"])[1 - half]).all()
    check_half({**message, "unknown": message["unknown"][half], "values": single}, content_type, dtype)


@pytest.mark.parametrize("content_type", TYPES)
async def test_a_batch_frame_without_an_unknown_target_has_no_lists(fed: HttpDaemon, content_type: str) -> None:
    for choice in ({"servers": ["whole"]}, {"targets": ["cpu_user"]}):
        async with fed.subscribed(content_type, batch=True, last_event_id=0, **choice) as reader:
            assert "unknown" not in await reader.receive()


async def test_an_event_has_the_names(fed: HttpDaemon) -> None:
    url = f"{fed.url}/v1/forecasts/stream?servers=half&last_event_id=0"
    async with fed.session.get(url) as response:
        while not (line := await response.content.readline()).startswith(b"data: "):
            pass
    check_half(json.loads(line.removeprefix(b"data: ")), JSON)


async def test_a_target_is_unknown_until_a_value_comes_and_again_when_the_last_one_is_too_old(
    daemon: HttpDaemon,
) -> None:
    length = CONTRACT.context_length
    unknown: list[bool] = []
    async with daemon.subscribed() as reader:
        for step in range(2 * length + NEED):
            values = {"cpu_user": 1.0, **({"load_average": 2.0} if step == NEED else {})}
            await daemon.accept([make_sample("a", step, values), make_sample("a", step + 1, {}, status=1)])
            if step >= NEED - 1:
                message = await reader.receive()
                assert message["origin"] == origin(step)
                unknown.append(message.get("unknown") == ["load_average"])
                assert (message["values"][1] is None) == unknown[-1]
    assert unknown == [True] + [False] * length + [True] * length


# ---------------------------------------------------------------- forecasts of a caller's own windows
GIVEN: Inputs = {**make_inputs(2)}
GIVEN["encoder_cont"] = GIVEN["encoder_cont"].copy()
GIVEN["encoder_cont"][1, :, 2] = np.nan


def check_predictions(predictions: npt.NDArray[Any]) -> None:
    """Check that the second window has no `load_average`, and nothing else is missing."""
    assert predictions.shape == (2, *CONTRACT.output_shape)
    missing = np.isnan(predictions)
    assert missing[1, :, 1].all()
    assert missing.sum() == missing[1, :, 1].size


async def test_a_caller_gets_nan_in_messagepack(daemon: HttpDaemon) -> None:
    reply = await daemon.post("/v1/predict", as_tensors(GIVEN), MSGPACK)
    check_predictions(read_array(reply.body["outputs"]["predictions"]))


async def test_a_caller_gets_null_for_each_number_in_json(daemon: HttpDaemon) -> None:
    reply = await daemon.post("/v1/predict", as_lists(GIVEN))
    assert b"NaN" not in reply.data
    shown = reply.body["predictions"]
    assert shown[1][0][1] == [None] * len(CONTRACT.quantiles)
    check_predictions(np.array(shown, np.float32))


@pytest.mark.parametrize("wants_bytes", [True, False])
async def test_a_client_of_the_open_inference_protocol_gets_nan_or_null(daemon: HttpDaemon, wants_bytes: bool) -> None:
    reply = await infer(daemon, GIVEN, parameters={"binary_data_output": wants_bytes})
    assert wants_bytes or b"NaN" not in reply.data
    check_predictions(read_forecasts(reply))
