"""Tests `streamd/http/open_inference/routes.py`: captured and made requests, and every error in the protocol's form."""

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Mapping

import numpy as np
import pytest
from aiohttp import web

from streamd.http.access.rules import ROUTE_RULES, RouteKey
from streamd.http.errors import errors_middleware
from streamd.http.forwarding import EngineForwarder
from streamd.http.open_inference.messages import HEADER_LENGTH
from streamd.http.requests import TransportLimits
from streamd.runtime.service import ServiceLimits
from tests.http.conftest import Start
from tests.support.access_tokens import grant_all, make_access_list, make_test_token
from tests.support.fake_versions import VERSION_NAMES
from tests.support.http_harness import (
    CONTRACT,
    MODEL,
    MSGPACK,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    Message,
    Reply,
    is_same_array,
    make_question,
    make_rows,
)
from tests.support.open_inference import (
    INFER,
    PLAIN,
    infer,
    list_captured_requests,
    make_message,
    post_message,
    read_answer,
    read_captured_request,
    read_forecasts,
)
from tests.support.predict_inputs import REFUSED, Inputs, compute_expected, make_inputs
from tests.support.version_switch import switch_while_a_batch_runs

MODEL_PATH = "/v2/models/streamd"


def assert_error(reply: Reply, status: int, *words: str) -> None:
    """Check that an answer is an error as clients read it: an object with one string."""
    assert reply.status == status, reply.data
    assert reply.headers["Content-Type"].startswith("application/json")
    body = json.loads(reply.data)
    assert list(body) == ["error"]
    for word in words:
        assert word in body["error"]


# ---------------------------------------------------------------- what real clients sent
@pytest.mark.parametrize("name", list_captured_requests())
async def test_a_captured_request_reaches_the_model_unchanged_and_gets_its_forecasts(
    daemon: HttpDaemon, name: str
) -> None:
    seen: list[Inputs] = []
    daemon.backend.script.on_run = lambda lane, inputs: seen.append(inputs)
    captured = read_captured_request(name)
    reply = await daemon.call("POST", captured.path, captured.body, {**PLAIN, **captured.headers})
    made = read_forecasts(reply)
    inputs = {key: np.concatenate([each[key] for each in seen])[: len(made)] for key in CONTRACT.input_shapes}
    first = np.arange(24, dtype=np.float32).reshape(8, 3) / np.float32(8)
    if name != "perf-analyzer/optional-left-out":
        first[2, 1] = np.nan
    if name.startswith("tritonclient"):
        first[3, 2] = -0.0
        assert np.signbit(inputs["encoder_cont"][0, 3, 2])
    assert is_same_array(inputs["encoder_cont"][0], first)
    assert inputs["decoder_cont"][0, 3].tolist() == [0, 1, -0.5, 0.25]
    if name not in ("perf-analyzer/optional-left-out", "tritonclient/parameters"):
        assert inputs["encoder_cat"][0, 7].tolist() == [0, 2]
        assert inputs["decoder_cat"][0, 3].tolist() == [0, 1]
    assert is_same_array(made, compute_expected(inputs))
    assert len(made) == {"binary-batch": 3}.get(name.partition("/")[2], len(made))


def test_the_captured_requests_are_there() -> None:
    assert {name.partition("/")[0] for name in list_captured_requests()} == {"tritonclient", "perf-analyzer"}


# ---------------------------------------------------------------- inference
@pytest.mark.parametrize("wants_bytes", [True, False])
@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("windows", [1, 70])
async def test_json_and_bytes_are_taken_and_given(
    daemon: HttpDaemon, windows: int, is_binary: bool, wants_bytes: bool
) -> None:
    given = make_inputs(windows)
    outputs = [{"name": "predictions", "parameters": {"binary_data": wants_bytes}}]
    reply = await infer(daemon, given, is_binary=is_binary, outputs=outputs, id="x-1")
    answer = read_answer(reply)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("streamd", MODEL, "x-1")
    assert (HEADER_LENGTH in reply.headers) is wants_bytes
    assert reply.headers["Content-Type"].startswith("application/octet-stream" if wants_bytes else "application/json")
    assert is_same_array(read_forecasts(reply), compute_expected(given))


async def test_null_in_json_is_a_missing_value(daemon: HttpDaemon) -> None:
    given = make_inputs(1)
    body = json.dumps(make_message(given, is_binary=False)[0]).replace("NaN", "null").encode()
    assert b"null" in body
    reply = await daemon.call("POST", INFER, body, PLAIN)
    assert is_same_array(read_forecasts(reply), compute_expected(given))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("windows", [1, 400])
async def test_bodies_are_compressed_both_ways(daemon: HttpDaemon, coding: str, windows: int) -> None:
    given = make_inputs(windows)
    message, behind = make_message(given, is_binary=True, parameters={"binary_data_output": True})
    header = json.dumps(message).encode()
    compress = gzip.compress if coding == "gzip" else zlib.compress
    headers = {HEADER_LENGTH: str(len(header)), "Content-Encoding": coding, "Accept-Encoding": coding}
    reply = await daemon.call("POST", INFER, compress(header + behind), headers)
    assert reply.headers["Content-Encoding"] == coding
    assert int(reply.headers["Content-Length"]) < len(reply.data), "the client of the tests has decompressed it"
    assert is_same_array(read_forecasts(reply), compute_expected(given))


async def test_a_version_may_be_named_if_it_serves(daemon: HttpDaemon) -> None:
    given = make_inputs(2)
    message, behind = make_message(given, is_binary=True)
    reply = await post_message(daemon, message, behind, f"{MODEL_PATH}/versions/{MODEL}/infer")
    assert is_same_array(read_forecasts(reply), compute_expected(given))
    reply = await post_message(daemon, message, behind, f"{MODEL_PATH}/versions/1/infer")
    assert_error(reply, 404, "version '1' of streamd does not serve, expected", MODEL)


async def test_a_named_version_never_gets_the_forecasts_of_another(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=1))
    daemon.backend.script.hold = True
    message, behind = make_message(make_inputs(40), is_binary=True)  # more than the largest bucket: two batches
    path = f"{MODEL_PATH}/versions/{MODEL}/infer"
    calling = asyncio.create_task(post_message(daemon, message, behind, path))
    await switch_while_a_batch_runs(daemon)
    daemon.release_lanes()
    assert_error(await calling, 404, MODEL, f"expected {VERSION_NAMES[1]}")


async def test_windows_of_servers_and_of_both_kinds_of_callers_share_a_batch(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=1))
    daemon.backend.script.hold = True
    await daemon.accept(make_rows("plug", 1, range(NEED)))
    while not daemon.backend.script.runs:
        await daemon.get("/healthz")
    seen: list[Inputs] = []
    daemon.backend.script.on_run = lambda lane, inputs: seen.append(inputs)
    await daemon.accept(make_rows("web-01", 7, range(NEED)))
    predicting = asyncio.create_task(daemon.post("/v1/predict", make_question(3.0), MSGPACK))
    given = make_inputs(2)
    inferring = asyncio.create_task(infer(daemon, given))
    while daemon.service.scheduler.waiting < 1 + 1 + 2:
        await daemon.get("/healthz")
    daemon.release_lanes()
    assert (await predicting).status == 200
    assert is_same_array(read_forecasts(await inferring), compute_expected(given))
    assert [count for _, count in daemon.backend.script.runs] == [1, 4]
    assert len(seen) == 1


# ---------------------------------------------------------------- health and metadata
async def test_readiness_is_that_of_the_daemon(daemon: HttpDaemon) -> None:
    assert (await daemon.get("/v2/health/live")).body == {"live": True}
    assert (await daemon.get("/v2/health/ready")).body == {"ready": True}
    for path in (MODEL_PATH, f"{MODEL_PATH}/versions/{MODEL}"):
        assert (await daemon.get(f"{path}/ready")).body == {"name": "streamd", "ready": True}
    daemon.service.is_draining = True
    assert (await daemon.get("/v2/health/live")).status == 200
    for path in ("/v2/health/ready", f"{MODEL_PATH}/ready"):
        reply = await daemon.get(path)
        assert (reply.status, reply.body["ready"], reply.body["error"]) == (503, False, "the daemon is stopping")


async def test_without_a_lane_nothing_is_ready(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=0))
    reply = await daemon.get("/v2/health/ready")
    assert (reply.status, reply.body["error"]) == (503, "no lane is ready")
    reply = await infer(daemon, make_inputs(1))
    assert_error(reply, 503, "no lane is ready")
    assert "Retry-After" in reply.headers


async def test_metadata_is_of_the_model_and_of_the_version_that_serves(daemon: HttpDaemon) -> None:
    assert (await daemon.get("/v2")).body["name"] == "streamd"
    for path in (MODEL_PATH, f"{MODEL_PATH}/versions/{MODEL}"):
        shown = (await daemon.get(path)).body
        assert (shown["versions"], shown["platform"]) == ([MODEL], "fake")
        assert (await daemon.get(f"{path}/config")).body["input"][0]["dims"] == [8, 3]


async def test_before_a_version_is_loaded_no_platform_is_named(daemon: HttpDaemon) -> None:
    daemon.service.engine.shown = {"backend": None}
    assert (await daemon.get(MODEL_PATH)).body["platform"] == ""


# ---------------------------------------------------------------- statistics
async def read_statistics(daemon: HttpDaemon, path: str = MODEL_PATH) -> Message:
    (shown,) = (await daemon.get(f"{path}/stats")).body["model_stats"]
    assert isinstance(shown, dict)
    return shown


async def test_statistics_begin_with_nothing(daemon: HttpDaemon) -> None:
    shown = await read_statistics(daemon)
    assert shown == await read_statistics(daemon, f"{MODEL_PATH}/versions/{MODEL}")
    assert (shown["version"], shown["version_name"]) == ("1", MODEL), "perf_analyzer needs a number as the version"
    assert (shown["inference_count"], shown["execution_count"], shown["last_inference"]) == (0, 0, 0)
    assert set(shown["inference_stats"]) >= {"success", "fail", "queue"}
    assert all(each == {"count": 0, "ns": 0} for each in shown["inference_stats"].values())


async def test_statistics_count_the_calls_for_inference_alone(daemon: HttpDaemon) -> None:
    await daemon.accept(make_rows("web-01", 7, range(NEED)))
    assert (await daemon.post("/v1/predict", make_question(3.0), MSGPACK)).status == 200
    assert (await infer(daemon, make_inputs(2))).status == 200
    assert (await infer(daemon, make_inputs(3))).status == 200
    assert (await infer(daemon, {})).status == 400
    shown = await read_statistics(daemon)
    counts = {name: each["count"] for name, each in shown["inference_stats"].items()}
    computed = dict.fromkeys(("success", "queue", "compute_input", "compute_infer", "compute_output"), 2)
    assert counts == {**computed, "fail": 1}
    assert (shown["inference_count"], shown["execution_count"]) == (5, 2)
    assert [each["batch_size"] for each in shown["batch_stats"]] == [2, 3]


async def test_the_queue_and_the_lane_have_their_times(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=1))
    daemon.backend.script.hold = True
    first = asyncio.create_task(infer(daemon, make_inputs(1)))
    while not daemon.backend.script.runs:
        await daemon.get("/healthz")
    second = asyncio.create_task(infer(daemon, make_inputs(2)))
    while not daemon.service.scheduler.waiting:
        await daemon.get("/healthz")
    held = time.monotonic()
    while time.monotonic() - held < 0.02:
        await daemon.get("/healthz")
    daemon.release_lanes()
    assert {(await first).status, (await second).status} == {200}
    shown = (await read_statistics(daemon))["inference_stats"]
    assert shown["queue"]["ns"] >= 20_000_000, "the second call waited for the lane"
    assert shown["compute_infer"]["ns"] >= 20_000_000, "and the first one was in it"
    parts = sum(shown[name]["ns"] for name in shown if name not in ("success", "fail"))
    assert abs(shown["success"]["ns"] - parts) < 10, "no time is counted twice, or not at all"


# ---------------------------------------------------------------- errors
async def test_invalid_inputs_do_not_reach_the_model(daemon: HttpDaemon) -> None:
    for name, given, _ in REFUSED:
        for is_binary in (True, False):
            reply = await infer(daemon, given, is_binary=is_binary)
            assert reply.status == 400, f"{name}: {reply.data!r}"
            assert_error(reply, 400)
    assert not daemon.backend.script.runs


NOT_THERE = [
    ("GET", "/v2/models/other", 404, "model 'other' is unknown, expected streamd"),
    ("GET", "/v2/models/other/ready", 404, "model 'other' is unknown"),
    ("GET", f"{MODEL_PATH}/versions/7/config", 404, "version '7' of streamd does not serve"),
    ("POST", "/v2/models/other/infer", 404, "model 'other' is unknown"),
    ("POST", "/v2/repository/index", 404, "POST /v2/repository/index"),
    ("POST", "/v2/repository/models/streamd/load", 404, "Not Found"),
    ("GET", f"{MODEL_PATH}/versions/7/stats", 404, "version '7' of streamd does not serve"),
    ("GET", "/v2/models/stats", 404, "model 'stats' is unknown"),
    ("GET", "/v2/", 404, "Not Found"),
    ("GET", INFER, 405, "Method Not Allowed: GET"),
    ("POST", MODEL_PATH, 405, "Method Not Allowed: POST"),
    ("DELETE", "/v2", 405, "Method Not Allowed: DELETE"),
]


async def test_what_is_not_there_is_answered_with_an_error(daemon: HttpDaemon) -> None:
    for method, path, status, words in NOT_THERE:
        for accept in ("*/*", MSGPACK):
            reply = await daemon.call(method, path, headers={"Accept": accept})
            assert_error(reply, status, words)


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"", {}, 400, "truncated"),
        (b'{"inputs": 5}', {}, 400, "Expected `array`, got `int`"),
        (b"{}", {HEADER_LENGTH: "9"}, 400, "Inference-Header-Content-Length is 9, expected 1 to 2"),
        (b'{"inputs": []}', {}, 400, "inputs ['decoder_cont', 'encoder_cont'] are missing"),
        (b"x", {"Content-Encoding": "br"}, 415, "Content-Encoding is 'br', expected one of gzip"),
        (b"x", {"Content-Encoding": "gzip"}, 400, "in the middle of its gzip data"),
        (bytes(2_000), {}, 413, "the body has 2000 bytes, at most 1000 are accepted"),
    ],
)
async def test_bodies_that_cannot_be_read_are_answered_with_an_error(
    start: Start, body: bytes, headers: Mapping[str, str], status: int, words: str
) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_body_bytes=1_000)))
    for content_type in ({}, {"Content-Type": MSGPACK}):
        assert_error(await daemon.call("POST", INFER, body, {**headers, **content_type}), status, words)


async def test_a_full_queue_is_429_with_retry_after(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(service_limits=ServiceLimits(max_waiting_requests=4)))
    reply = await infer(daemon, make_inputs(5))
    assert_error(reply, 429, "4 windows of callers may wait")
    assert int(reply.headers["Retry-After"]) >= 1
    assert (await infer(daemon, make_inputs(4))).status == 200


async def test_a_forecast_that_is_not_finite_is_an_error_and_never_an_answer(daemon: HttpDaemon) -> None:
    daemon.backend.script.not_finite = lambda window: True
    assert_error(await infer(daemon, make_inputs(1)), 400, "window 0")


async def test_a_defect_of_the_daemon_is_500(daemon: HttpDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*inputs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(daemon.service, "predict", fail)
    assert_error(await infer(daemon, make_inputs(1)), 500, "a defect of the daemon")


async def test_refused_callers_get_errors_that_their_clients_read(start: Start) -> None:
    reader = make_test_token("reader", {scope: globs for scope, globs in grant_all().items() if scope != "predict"})
    daemon = await start(HttpDaemonSettings(access=make_access_list(reader)))
    paths = {
        "GET": ("/v2", MODEL_PATH, f"{MODEL_PATH}/config", f"{MODEL_PATH}/stats", f"{MODEL_PATH}/versions/{MODEL}"),
        "POST": (INFER, f"{MODEL_PATH}/versions/{MODEL}/infer"),
    }
    for method, path in ((method, path) for method, each in paths.items() for path in each):
        reply = await daemon.call(method, path)
        assert_error(reply, 401, "token")
        assert "WWW-Authenticate" in reply.headers
        assert_error(await daemon.call(method, path, headers=reader.headers), 403, "'reader'", "predict")


async def test_a_worker_whose_engine_process_is_away_answers_in_the_same_form(start: Start) -> None:
    key: RouteKey = ("POST", "/v2/models/{model}/infer")
    worker = web.Application(middlewares=[errors_middleware])
    worker.router.add_post(key[1], EngineForwarder("nowhere", lambda: False).make_handler(ROUTE_RULES[key]))
    runner = web.AppRunner(worker)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    daemon = await start(HttpDaemonSettings(lanes=0))
    daemon.port = runner.addresses[0][1]
    try:
        reply = await infer(daemon, make_inputs(1))
    finally:
        await runner.cleanup()
    assert_error(reply, 503, "the engine process is being restarted")
    assert "Retry-After" in reply.headers


async def test_errors_of_other_paths_keep_their_form(daemon: HttpDaemon) -> None:
    for path in ("/v2x", "/v1/unknown"):
        body: Message = (await daemon.get(path)).body
        assert (body["type"], body["code"]) == ("error", "not_found")
