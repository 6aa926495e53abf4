"""Tests `streamd/http/routes/predict.py`: tensors in, tensors out, in each form, and each refusal."""

import asyncio
from typing import Any

import numpy as np
import pytest

from streamd.core.contract import ModelContract
from streamd.runtime.service import ServiceLimits
from tests.http.conftest import Start
from tests.support.fake_versions import VERSION_NAMES, compute_version_forecast
from tests.support.http_harness import (
    CONTRACT,
    JSON,
    MODEL,
    MSGPACK,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    Message,
    is_same_array,
    make_rows,
    make_window,
    make_wire_forecast,
    pack,
    read_array,
)
from tests.support.predict_inputs import (
    REFUSED,
    Inputs,
    as_lists,
    as_tensors,
    compute_expected,
    make_inputs,
)
from tests.support.version_switch import switch_while_a_batch_runs


@pytest.mark.parametrize("path", ["/v1/predict", "/predict"])
@pytest.mark.parametrize("windows", [1, 3, 70])
async def test_messagepack_tensors_are_answered_with_tensors(daemon: HttpDaemon, path: str, windows: int) -> None:
    given = make_inputs(windows)
    reply = await daemon.post(path, as_tensors(given), MSGPACK)
    assert reply.status == 200
    assert reply.body["model"] == MODEL
    shown = reply.body["outputs"]["predictions"]
    assert shown["shape"] == [windows, *CONTRACT.output_shape]
    assert shown["dtype"] == "float32"
    assert is_same_array(read_array(shown), compute_expected(given))


@pytest.mark.parametrize("path", ["/v1/predict", "/predict"])
@pytest.mark.parametrize("wrapped", [True, False])
async def test_json_lists_are_answered_with_lists(daemon: HttpDaemon, path: str, wrapped: bool) -> None:
    given = make_inputs(3)
    body = (await daemon.post(path, {"inputs": as_lists(given)} if wrapped else as_lists(given))).body
    shown = (body["outputs"] if wrapped else body)["predictions"]
    assert is_same_array(read_array(shown), compute_expected(given))


async def test_inputs_without_the_batch_axis_are_answered_without_it(daemon: HttpDaemon) -> None:
    given = make_inputs(1)
    single = {name: array[0] for name, array in given.items()}
    body = (await daemon.post("/v1/predict", as_tensors(single), MSGPACK)).body
    assert is_same_array(read_array(body["outputs"]["predictions"]), compute_expected(given)[0])
    body = (await daemon.post("/v1/predict", as_lists(single))).body
    assert is_same_array(read_array(body["predictions"]), compute_expected(given)[0])


async def test_one_target_has_no_target_axis(start: Start) -> None:
    contract = ModelContract(("a", "b"), ("b",), (0.5, 0.9), context_length=3, horizon=2, step_seconds=60)
    daemon = await start(HttpDaemonSettings(contract=contract))
    given = make_inputs(2, contract)
    body = (await daemon.post("/v1/predict", as_tensors(given), MSGPACK)).body
    assert body["outputs"]["predictions"]["shape"] == [2, 2, 2]
    assert is_same_array(read_array(body["outputs"]["predictions"]), compute_expected(given, contract)[:, :, 0])


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
async def test_other_number_types_are_converted(daemon: HttpDaemon, dtype: str) -> None:
    given = make_inputs(2)
    given["encoder_cont"] = given["encoder_cont"].astype(dtype)
    given["encoder_cat"] = given["encoder_cat"].astype("<i8")
    given["decoder_cat"] = given["decoder_cat"].astype("u1")
    body = (await daemon.post("/v1/predict", as_tensors(given), MSGPACK)).body
    windows = {"encoder_cont": given["encoder_cont"].astype("<f4")}
    assert is_same_array(read_array(body["outputs"]["predictions"]), compute_expected(windows))


async def test_categories_may_be_left_out(daemon: HttpDaemon) -> None:
    given = make_inputs(2)
    seen: list[dict[str, Any]] = []
    daemon.backend.script.on_run = lambda lane, inputs: seen.append(inputs)
    part = {name: given[name] for name in ("encoder_cont", "decoder_cont")}
    body = (await daemon.post("/v1/predict", as_tensors(part), MSGPACK)).body
    assert is_same_array(read_array(body["outputs"]["predictions"]), compute_expected(given))
    assert not seen[0]["encoder_cat"].any()
    assert not seen[0]["decoder_cat"].any()


async def test_the_lane_sees_what_was_sent(daemon: HttpDaemon) -> None:
    given = make_inputs(1)
    seen: list[dict[str, Any]] = []
    daemon.backend.script.on_run = lambda lane, inputs: seen.append(inputs)
    await daemon.post("/v1/predict", as_tensors(given), MSGPACK)
    for name, array in given.items():
        assert np.array_equal(seen[0][name], array, equal_nan=True)


async def test_callers_and_servers_share_batches_and_get_their_own_forecasts(daemon: HttpDaemon) -> None:
    async def caller(number: int) -> None:
        given = make_inputs(number % 9 + 1)
        given["encoder_cont"] += number
        content_type, message = (MSGPACK, as_tensors(given)) if number % 2 else (JSON, as_lists(given))
        body = (await daemon.post("/v1/predict", message, content_type)).body
        shown = body["outputs"]["predictions"] if number % 2 else body["predictions"]
        assert is_same_array(read_array(shown), compute_expected(given))

    async def agent(number: int) -> None:
        await daemon.accept(make_rows(f"s{number}", number, range(NEED)))

    async with daemon.subscribed() as reader:
        await asyncio.gather(*(call(number) for number in range(40) for call in (caller, agent)))
        for _ in range(40):
            message = await reader.receive()
            window = make_window(make_rows("", int(message["server"][1:]), range(NEED)), NEED - 1)
            assert is_same_array(read_array(message["values"]), make_wire_forecast(window))
    assert any(count > 1 for _, count in daemon.backend.script.runs)


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(("given", "code"), [pytest.param(given, code, id=name) for name, given, code in REFUSED])
async def test_invalid_inputs_do_not_reach_the_model(daemon: HttpDaemon, given: Inputs, code: str) -> None:
    reply = await daemon.post("/v1/predict", as_tensors(given), MSGPACK)
    assert (reply.status, reply.code) == (422, code)
    assert not daemon.backend.script.runs


def make_tampered_message(**change: Any) -> Message:
    message = as_tensors(make_inputs(2))
    message["inputs"]["encoder_cont"] |= change
    return message


@pytest.mark.parametrize(
    "message",
    [
        make_tampered_message(dtype="complex64"),
        make_tampered_message(dtype="O"),
        make_tampered_message(dtype="float64"),
        make_tampered_message(dtype=5),
        make_tampered_message(data=b""),
        make_tampered_message(data="text"),
        make_tampered_message(shape=[-1, 8, 3]),
        make_tampered_message(shape=[2, 8, 3] + [1] * 9),
        make_tampered_message(shape=[2**62, 4, 2**62]),
        *(make_tampered_message(shape=shape, data=b"") for shape in ([0, 2**62], [2**63, 0], [0, 2**64 - 1])),
        make_tampered_message(shape=["2", 8, 3]),
        make_tampered_message(shape=None),
        {"inputs": {"encoder_cont": 5, "decoder_cont": "x"}},
        {"inputs": {"encoder_cont": b"1234", "decoder_cont": None}},
        {"inputs": {"encoder_cont": {"shape": [1]}}},
        {"inputs": {}},
    ],
)
async def test_values_that_are_not_tensors_are_422(daemon: HttpDaemon, message: Message) -> None:
    reply = await daemon.post("/v1/predict", message, MSGPACK)
    assert (reply.status, reply.code) == (422, "invalid_tensor")


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[]],
        [[1, 2, 3], [1, 2]],
        [["1", "2", "3"]] * 8,
        [[True, False, True]] * 8,
        [[{}, {}, {}]] * 8,
        [[10**400, 1, 1]] * 8,
        "x",
        5,
        None,
    ],
)
async def test_lists_that_are_not_tensors_are_refused(daemon: HttpDaemon, value: Any) -> None:
    message = as_lists({name: array[0] for name, array in make_inputs(1).items()}) | {"encoder_cont": value}
    reply = await daemon.post("/v1/predict", message)
    assert (reply.status, reply.code) in ((422, "invalid_tensor"), (400, "malformed"))
    assert not daemon.backend.script.runs


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"", JSON),
        (b"null", JSON),
        (b"[]", JSON),
        (b"{", JSON),
        (b"5", JSON),
        (b'{"inputs": []}', JSON),
        (b"[" * 100_000, JSON),
        (b'{"encoder_cont":' + b"[" * 100_000, JSON),
        (b"", MSGPACK),
        (b"\xc0", MSGPACK),
        (b"\x90", MSGPACK),
        (b"\x81\x01\x01", MSGPACK),
        (b"\xc1", MSGPACK),
        (b"\x81\xa1a" + b"\x91" * 100_000, MSGPACK),
    ],
)
async def test_bodies_without_inputs_are_400(daemon: HttpDaemon, data: bytes, content_type: str) -> None:
    reply = await daemon.post_bytes("/v1/predict", data, content_type)
    assert (reply.status, reply.code) == (400, "malformed")


async def test_another_type_is_415(daemon: HttpDaemon) -> None:
    reply = await daemon.post_bytes("/v1/predict", b"{}", "text/plain")
    assert (reply.status, reply.code) == (415, "unsupported_media_type")


async def test_too_many_windows_in_one_call_are_422(daemon: HttpDaemon) -> None:
    given = {name: np.repeat(array, 4_097, axis=0) for name, array in make_inputs(1).items()}
    reply = await daemon.post("/v1/predict", as_tensors(given), MSGPACK)
    assert (reply.status, reply.code) == (422, "invalid_tensor")
    fits = {name: array[:4_096] for name, array in given.items()}
    reply = await daemon.post("/v1/predict", as_tensors(fits), MSGPACK)
    assert reply.status == 200
    assert reply.body["outputs"]["predictions"]["shape"] == [4_096, *CONTRACT.output_shape]


async def test_too_many_waiting_windows_are_429_with_retry_after(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(service_limits=ServiceLimits(max_waiting_requests=4)))
    reply = await daemon.post("/v1/predict", as_tensors(make_inputs(5)), MSGPACK)
    assert (reply.status, reply.code) == (429, "too_busy")
    assert int(reply.headers["Retry-After"]) >= 1
    assert (await daemon.post("/v1/predict", as_tensors(make_inputs(4)), MSGPACK)).status == 200


async def test_an_answer_that_is_not_ready_in_time_is_429(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(service_limits=ServiceLimits(predict_timeout_seconds=0.01)))
    daemon.backend.script.hold = True
    reply = await daemon.post("/v1/predict", as_tensors(make_inputs(1)), MSGPACK)
    assert (reply.status, reply.code) == (429, "too_busy")
    # 2. Its late result affects no other call.
    daemon.release_lanes()
    await daemon.service.pipeline.wait_idle()


async def wait_for_queue(daemon: HttpDaemon, windows: int) -> None:
    """Wait until exactly so many windows of callers are in the queue."""
    while daemon.service.scheduler.waiting_requests != windows:
        await asyncio.sleep(0)


async def test_windows_of_a_call_that_timed_out_never_run(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=1, service_limits=ServiceLimits(predict_timeout_seconds=0.01)))
    daemon.backend.script.hold = True
    for windows in (1, 40):  # the first one's window is on the lane, the others wait
        assert (await daemon.post("/v1/predict", as_tensors(make_inputs(windows)), MSGPACK)).status == 429
    status = await daemon.status()
    assert (status["waiting"], status["predict"]) == (0, {"calls": 0, "waiting": 0, "dropped": 40})
    daemon.release_lanes()
    await daemon.service.pipeline.wait_idle()
    assert daemon.backend.script.runs == [("fake-0", 1)]


async def test_windows_of_a_caller_that_disconnects_leave_the_queue(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=1))
    daemon.backend.script.hold = True
    body = pack(as_tensors(make_inputs(40)), MSGPACK)
    head = f"POST /v1/predict HTTP/1.1\r\nHost: [::1]\r\nContent-Type: {MSGPACK}\r\nContent-Length: {len(body)}\r\n\r\n"
    writers = []
    for number in range(30):
        _, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(head.encode() + body)
        writers.append(writer)
        await wait_for_queue(daemon, 40 * (number + 1) - 32)
    status = await daemon.status()
    assert status["predict"] == {"calls": 30, "waiting": 1_168, "dropped": 0}
    assert (status["waiting"], status["in_flight"], status["due"]) == (1_168, 32, 0)
    metrics = (await daemon.get("/metrics")).data.decode()
    assert "streamd_waiting 1168.0\n" in metrics
    assert "streamd_predict_waiting 1168.0\n" in metrics
    # 2. They leave: some reset the connection, some close it.
    for number, writer in enumerate(writers):
        if number % 2:
            writer.transport.abort()
        else:
            writer.close()
    await wait_for_queue(daemon, 0)
    status = await daemon.status()
    assert status["predict"] == {"calls": 0, "waiting": 0, "dropped": 1_168}
    assert "streamd_predict_dropped_total 1168.0\n" in (await daemon.get("/metrics")).data.decode()
    # 3. The next caller waits only for the batch that runs.
    calling = asyncio.create_task(daemon.post("/v1/predict", as_tensors(make_inputs(1)), MSGPACK))
    await wait_for_queue(daemon, 1)
    daemon.release_lanes()
    assert (await calling).status == 200
    assert daemon.backend.script.runs == [("fake-0", 32), ("fake-0", 1)]


async def test_a_call_with_a_failed_window_removes_its_others_from_the_queue(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=1))
    daemon.backend.script.hold = True
    daemon.backend.script.not_finite = lambda window: True
    calling = asyncio.create_task(daemon.post("/v1/predict", as_tensors(make_inputs(70)), MSGPACK))
    await wait_for_queue(daemon, 38)
    daemon.backend.script.gates["fake-0"].set()  # the first batch ends, the second runs and is held
    reply = await calling
    assert (reply.status, reply.code) == (422, "forecast_not_finite")
    daemon.release_lanes()
    await daemon.service.pipeline.wait_idle()
    assert [windows for _, windows in daemon.backend.script.runs] == [32, 32]
    assert (await daemon.status())["predict"] == {"calls": 0, "waiting": 0, "dropped": 6}


async def test_before_a_lane_is_ready_it_is_503(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=0))
    reply = await daemon.post("/v1/predict", as_tensors(make_inputs(1)), MSGPACK)
    assert (reply.status, reply.code) == (503, "unavailable")
    assert "Retry-After" in reply.headers
    daemon.open_lanes(1)
    assert (await daemon.post("/v1/predict", as_tensors(make_inputs(1)), MSGPACK)).status == 200


@pytest.mark.parametrize("wrong", [True, "1", [], {}])
async def test_lists_may_hold_only_numbers_and_null(daemon: HttpDaemon, wrong: object) -> None:
    given = as_lists(make_inputs(1))
    given["encoder_cont"][0][0][0] = wrong
    for content_type in (JSON, MSGPACK):
        reply = await daemon.post("/v1/predict", given, content_type)
        assert (reply.status, reply.body["code"]) == (422, "invalid_tensor")
        assert "encoder_cont" in reply.body["message"]


# ---------------------------------------------------------------- versions that change
async def test_windows_of_one_call_are_answered_by_one_version(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=1))
    daemon.backend.script.hold = True
    given = make_inputs(40)  # more than the largest bucket: it takes two batches
    calling = asyncio.create_task(daemon.post("/v1/predict", as_tensors(given), MSGPACK))
    await switch_while_a_batch_runs(daemon)
    daemon.release_lanes()
    reply = await calling
    assert (reply.status, reply.body["model"], reply.headers["X-Streamd-Model"]) == (
        200,
        VERSION_NAMES[1],
        VERSION_NAMES[1],
    )
    made = read_array(reply.body["outputs"]["predictions"])
    expected = [
        compute_version_forecast(CONTRACT, window, VERSION_NAMES[1]).transpose(1, 0, 2)
        for window in given["encoder_cont"]
    ]
    np.testing.assert_allclose(made, expected, rtol=1e-6)
