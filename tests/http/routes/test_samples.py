"""Tests `streamd/http/routes/samples.py`: `POST /v1/samples`.

Samples that are taken, samples that are refused alone, bodies that are refused as a whole.
"""

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest

from streamd.http.requests import TransportLimits
from tests.http.conftest import Start
from tests.support.http_harness import (
    CONTRACT,
    JSON,
    MSGPACK,
    TYPES,
    HttpDaemon,
    HttpDaemonSettings,
    Message,
    at,
    is_same_array,
    make_rows,
    make_sample,
    make_tensor,
    make_window,
    origin,
    pack,
    values_of,
)

FEATURES = list(CONTRACT.features)


# ---------------------------------------------------------------- samples
@pytest.mark.parametrize("content_type", TYPES)
async def test_samples_fill_the_window(daemon: HttpDaemon, content_type: str) -> None:
    sent = make_rows("web-01", 7, range(5))
    reply = await daemon.post("/v1/samples", {"samples": sent}, content_type)
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith(content_type)
    assert reply.body == {"accepted": 5, "rejected": 0, "errors": []}
    assert is_same_array(await daemon.window("web-01"), make_window(sent, 4))


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "text/json",
        "application/x-msgpack",
        "application/msgpack",
    ],
)
async def test_accepted_content_types(daemon: HttpDaemon, content_type: str) -> None:
    encoding = JSON if "json" in content_type.lower() else MSGPACK
    data = pack({"samples": [make_sample("a", 0)]}, encoding)
    assert (await daemon.post_bytes("/v1/samples", data, content_type)).status == 200


@pytest.mark.parametrize(
    "time",
    [
        at(2),
        at(2) + 59.999,
        "2023-11-14T22:16:00Z",
        "2023-11-14T22:16:00+00:00",
        "2023-11-14T23:16:30+01:00",
        "2023-11-14t22:16:59.999999z",
        "2023-11-14T16:16:00.5-06:00",
    ],
)
@pytest.mark.parametrize("content_type", TYPES)
async def test_times_are_numbers_or_rfc_3339(daemon: HttpDaemon, time: float | str, content_type: str) -> None:
    body = {"samples": [{"server": "a", "time": time, "values": values_of(1, 2)}]}
    assert (await daemon.post("/v1/samples", body, content_type)).body["accepted"] == 1
    answer = (await daemon.get("/v1/servers/a")).body
    assert answer["origin"] == origin(2)
    assert answer["origin"] == int(answer["origin"])


async def test_a_row_fills_from_several_samples_and_a_late_one_amends_it(daemon: HttpDaemon) -> None:
    await daemon.accept(
        [make_sample("a", 0, {"cpu_user": 1.0}), make_sample("a", 0, {"mem_used": 2.0, "load_average": None})]
    )
    await daemon.accept([make_sample("a", 1, {"cpu_user": 3.0}), make_sample("a", 2, values_of(5, 2))])
    await daemon.accept([make_sample("a", 0, {"load_average": 4.0}), make_sample("a", 1, {"cpu_user": 5.0})])
    expected = make_window(
        [
            make_sample("a", 0, {"cpu_user": 1.0, "mem_used": 2.0, "load_average": 4.0}),
            make_sample("a", 1, {"cpu_user": 5.0}),
            make_sample("a", 2, values_of(5, 2)),
        ],
        2,
    )
    assert is_same_array(await daemon.window("a"), expected)


async def test_null_and_nan_are_missing(daemon: HttpDaemon) -> None:
    body = {
        "samples": [
            make_sample("a", 0, {"cpu_user": float("nan"), "mem_used": 1.0}),
            make_sample("a", 1, {"cpu_user": None}),
        ]
    }
    assert (await daemon.post("/v1/samples", body, MSGPACK)).body["accepted"] == 2
    await daemon.accept([make_sample("a", 2)])
    answer = (await daemon.get("/v1/servers/a")).body
    assert answer["have"] == 2
    assert answer["values"][-3:] == [[None, 1.0, None], [None, None, None], list(values_of(0, 2).values())]


async def test_unknown_features_are_counted_and_ignored(daemon: HttpDaemon) -> None:
    await daemon.accept([make_sample("a", 0, {**values_of(1, 0), "gpu_temperature": 60.0, "fan": None})])
    assert is_same_array(await daemon.window("a"), make_window(make_rows("a", 1, [0]), 0))
    assert (await daemon.status())["samples"]["ignored_features"] == 2


async def test_a_sample_of_unknown_features_alone_makes_no_server(daemon: HttpDaemon) -> None:
    await daemon.accept([make_sample("a", 0, {"gpu_temperature": 60.0})])
    assert (await daemon.get("/v1/servers/a")).status == 404


async def test_status_reaches_the_model(daemon: HttpDaemon) -> None:
    seen: list[dict[str, Any]] = []
    daemon.backend.script.on_run = lambda lane, inputs: seen.append(inputs)
    async with daemon.subscribed() as reader:
        await daemon.accept([make_sample("a", step, status=status) for step, status in enumerate((0, 15, 2))])
        await reader.receive()
    assert seen[-1]["encoder_cat"][0, -3:, 1].tolist() == [0, 15, 2]
    assert seen[-1]["decoder_cat"][0, :, 1].tolist() == [2] * CONTRACT.horizon


# ---------------------------------------------------------------- columns
def columns(values: Any, time: Any, servers: list[str] | None = None) -> Message:
    return {"columns": {"servers": servers or ["a", "b"], "time": time, "features": FEATURES, "values": values}}


ROWS = np.array([[1.5, 2.0, 3.0], [4.0, 5.0, 6.0]])


@pytest.mark.parametrize("time", [at(3), [at(3), at(3) + 1], "2023-11-14T22:17:00Z", ["2023-11-14T22:17:00Z", at(3)]])
@pytest.mark.parametrize(
    ("content_type", "values"),
    [
        (JSON, ROWS.tolist()),
        (MSGPACK, ROWS.tolist()),
        *((MSGPACK, make_tensor(ROWS.astype(dtype))) for dtype in ("<f4", "<f8", "<f2")),
    ],
)
async def test_columns_fill_the_windows(daemon: HttpDaemon, content_type: str, values: Any, time: Any) -> None:
    reply = await daemon.post("/v1/samples", columns(values, time), content_type)
    assert reply.status == 200
    assert reply.body == {"accepted": 2, "rejected": 0, "errors": []}
    for server, row in zip("ab", ROWS, strict=True):
        expected = make_window([make_sample(server, 3, dict(zip(FEATURES, row.tolist(), strict=True)))], 3)
        assert is_same_array(await daemon.window(server), expected)


FLEET = [f"fleet-{number:02d}" for number in range(40)]


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("form", ["columns", "samples"])
async def test_the_rows_of_a_fleet_fill_its_windows(daemon: HttpDaemon, content_type: str, form: str) -> None:
    """They are written together from the second step on, but for the server with a late row and a bad value."""
    for step in range(5):
        rows = [values_of(step, number) for number in range(len(FLEET))]
        sent = [make_sample(server, step, row) for server, row in zip(FLEET, rows, strict=True)]
        if step == 3:
            sent[5]["values"]["cpu_user"] = rows[5]["cpu_user"] = 1e300
        values = [list(row.values()) for row in rows]
        body = columns(values, at(step), FLEET) if form == "columns" else {"samples": sent}
        reply = await daemon.post("/v1/samples", body, content_type)
        assert [error["index"] for error in reply.body["errors"]] == ([5] if step == 3 else [])
        assert reply.body["accepted"] == len(FLEET) - (step == 3)
    for number in (0, 4, 6, 39):
        made = [make_sample(FLEET[number], step, values_of(step, number)) for step in range(5)]
        assert is_same_array(await daemon.window(FLEET[number]), make_window(made, 4))
    made = [make_sample(FLEET[5], step, values_of(step, 5)) for step in (0, 1, 2, 4)]
    assert is_same_array(await daemon.window(FLEET[5]), make_window(made, 4))


async def test_columns_of_whole_numbers(daemon: HttpDaemon) -> None:
    whole = np.array([[1, 2, 3], [4, 5, 6]], "<i4")
    assert (await daemon.post("/v1/samples", columns(make_tensor(whole), at(0)), MSGPACK)).body["accepted"] == 2
    assert (await daemon.window("b"))[-1].tolist() == [4, 5, 6]


@pytest.mark.parametrize(("content_type", "hole"), [(JSON, None), (MSGPACK, None), (MSGPACK, float("nan"))])
async def test_columns_with_missing_values_and_unknown_features(
    daemon: HttpDaemon, content_type: str, hole: float | None
) -> None:
    body = {
        "columns": {
            "servers": ["a", "a"],
            "time": [at(0), at(1)],
            "features": ["load_average", "what", "cpu_user"],
            "values": [[1.0, 2.0, hole], [hole, hole, 3.0]],
        }
    }
    assert (await daemon.post("/v1/samples", body, content_type)).body["accepted"] == 2
    await daemon.accept([make_sample("a", 2)])
    assert (await daemon.get("/v1/servers/a")).body["values"][-3:-1] == [[None, None, 1.0], [3.0, None, None]]


@pytest.mark.parametrize("content_type", TYPES)
async def test_a_bad_row_of_columns_is_rejected_alone(daemon: HttpDaemon, content_type: str) -> None:
    good = list(values_of(1, 0).values())
    body = {
        "columns": {
            "servers": ["a", "", "c", "d", "e", 7, "g", "h"],
            "time": [at(0), at(0), -1, at(0), "soon", at(0), at(0), at(0)],
            "features": FEATURES,
            "values": [good, good, good, good[:2], good, good, ["x", 1, 2], good],
        }
    }
    answer = (await daemon.post("/v1/samples", body, content_type)).body
    assert (answer["accepted"], answer["rejected"]) == (2, 6)
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [
        (1, "invalid_server"),
        (2, "invalid_time"),
        (3, "invalid_value"),
        (4, "invalid_time"),
        (5, "invalid_server"),
        (6, "invalid_value"),
    ]
    for server in "ah":
        assert is_same_array(await daemon.window(server), make_window([make_sample(server, 0, values_of(1, 0))], 0))


BAD_COLUMNS: list[tuple[str, Message]] = [
    ("a row too few", columns(ROWS[:1].tolist(), at(0))),
    ("a row too many", columns([*ROWS.tolist(), [1, 2, 3]], at(0))),
    ("a time too few", columns(ROWS.tolist(), [at(0)])),
    ("a feature twice", {"columns": {**columns(ROWS.tolist(), at(0))["columns"], "features": ["cpu_user"] * 3}}),
    ("no features", {"columns": {"servers": ["a"], "time": at(0), "values": [[1]]}}),
    ("values that are a string", columns("abc", at(0))),
    ("both", {**columns(ROWS.tolist(), at(0)), "samples": []}),
]
BAD_TENSORS: list[tuple[str, Message]] = [
    ("bytes too few", columns({**make_tensor(ROWS), "data": b"1234"}, at(0))),
    ("an unknown type", columns({**make_tensor(ROWS), "dtype": "complex64"}, at(0))),
    ("one axis", columns(make_tensor(ROWS.reshape(-1)), at(0))),
    ("a negative size", columns({**make_tensor(ROWS), "shape": [-2, -3]}, at(0))),
    ("sizes beyond memory", columns({**make_tensor(ROWS), "shape": [2**40, 2**40]}, at(0))),
    ("no data", columns({"shape": [2, 3], "dtype": "float32"}, at(0))),
]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [pytest.param(JSON, body, id=f"json {name}") for name, body in BAD_COLUMNS]
    + [pytest.param(MSGPACK, body, id=f"msgpack {name}") for name, body in BAD_COLUMNS + BAD_TENSORS],
)
async def test_columns_that_contradict_themselves_are_malformed(
    daemon: HttpDaemon, content_type: str, body: Message
) -> None:
    reply = await daemon.post("/v1/samples", body, content_type)
    assert (reply.status, reply.code) == (400, "malformed")
    assert (await daemon.status())["servers"] == 0


async def test_a_row_too_wide_for_its_features_is_rejected_alone(daemon: HttpDaemon) -> None:
    body = columns(np.zeros((2, 4), "<f4").tolist(), at(0))
    answer = (await daemon.post("/v1/samples", body)).body
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [
        (0, "invalid_value"),
        (1, "invalid_value"),
    ]


# ---------------------------------------------------------------- a bad sample is rejected alone
BAD_SAMPLES: list[tuple[str, Any, str]] = [
    ("no object", None, "invalid_sample"),
    ("a list", [1, 2], "invalid_sample"),
    ("no server", {"time": at(0), "values": {}}, "invalid_sample"),
    ("no time", {"server": "x", "values": {}}, "invalid_sample"),
    ("no values", {"server": "x", "time": at(0)}, "invalid_sample"),
    ("server a number", make_sample("x", 0) | {"server": 5}, "invalid_server"),
    ("server empty", make_sample("", 0), "invalid_server"),
    ("server of 257 bytes", make_sample("x" * 257, 0), "invalid_server"),
    ("server of 257 bytes in 129 letters", make_sample("é" * 128 + "x", 0), "invalid_server"),
    ("time null", make_sample("x", 0) | {"time": None}, "invalid_time"),
    ("time a boolean", make_sample("x", 0) | {"time": True}, "invalid_time"),
    ("time no date", make_sample("x", 0) | {"time": "yesterday"}, "invalid_time"),
    ("time without offset", make_sample("x", 0) | {"time": "2023-11-14T22:16:00"}, "invalid_time"),
    ("time digits in a string", make_sample("x", 0) | {"time": str(at(0))}, "invalid_time"),
    ("time negative", make_sample("x", 0) | {"time": -60}, "invalid_time"),
    ("time before 1970", make_sample("x", 0) | {"time": "1969-12-31T23:59:59Z"}, "invalid_time"),
    ("time far ahead", make_sample("x", 0) | {"time": 10**12}, "too_far_ahead"),
    ("time beyond any year", make_sample("x", 0) | {"time": 1e300}, "too_far_ahead"),
    ("time too old", make_sample("a", -8), "too_old"),
    ("values a list", make_sample("x", 0) | {"values": [1, 2]}, "invalid_value"),
    ("values null", make_sample("x", 0) | {"values": None}, "invalid_value"),
    ("a value a string", make_sample("x", 0, {"cpu_user": "5"}), "invalid_value"),  # type: ignore[dict-item]
    ("a value a boolean", make_sample("x", 0, {"cpu_user": True}), "invalid_value"),
    ("a value beyond float32", make_sample("x", 0, {"cpu_user": 1e39}), "invalid_value"),
    ("a value an object", make_sample("x", 0) | {"values": {"cpu_user": {}}}, "invalid_value"),
    ("status negative", make_sample("x", 0, status=-1), "invalid_sample"),
    ("status 16", make_sample("x", 0, status=16), "invalid_sample"),
    ("status a boolean", make_sample("x", 0, status=True), "invalid_sample"),
    ("status a fraction", make_sample("x", 0, status=1.5), "invalid_sample"),
]


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize(("bad", "code"), [pytest.param(bad, code, id=name) for name, bad, code in BAD_SAMPLES])
async def test_a_bad_sample_is_rejected_alone(daemon: HttpDaemon, content_type: str, bad: Any, code: str) -> None:
    good = make_rows("a", 3, range(3))
    reply = await daemon.post("/v1/samples", {"samples": [good[0], bad, *good[1:]]}, content_type)
    answer = reply.body
    assert reply.status == 200
    assert (answer["accepted"], answer["rejected"]) == (3, 1)
    (error,) = answer["errors"]
    assert (error["index"], error["code"]) == (1, code)
    assert error["message"]
    assert is_same_array(await daemon.window("a"), make_window(good, 2))
    status = await daemon.status()
    assert status["servers"] == 1
    assert status["samples"]["rejected"] == {code: 1}


async def test_infinity_is_rejected_alone(daemon: HttpDaemon) -> None:
    body = {
        "samples": [
            make_sample("a", 0, {"cpu_user": float("inf")}),
            make_sample("a", 0),
            make_sample("a", 0, {"cpu_user": -1e39}),
        ]
    }
    answer = (await daemon.post("/v1/samples", body, MSGPACK)).body
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [
        (0, "invalid_value"),
        (2, "invalid_value"),
    ]
    for time in (float("nan"), float("inf"), float("-inf")):
        answer = (await daemon.post("/v1/samples", {"samples": [make_sample("b", 0) | {"time": time}]}, MSGPACK)).body
        assert [error["code"] for error in answer["errors"]] == ["invalid_time"]


async def test_all_rejections_are_counted_and_a_thousand_listed(daemon: HttpDaemon) -> None:
    answer = (await daemon.post("/v1/samples", {"samples": [make_sample("", 0)] * 2_500})).body
    assert (answer["accepted"], answer["rejected"], len(answer["errors"])) == (0, 2_500, 1_000)
    assert [error["index"] for error in answer["errors"]] == list(range(1_000))


async def test_a_body_larger_than_a_slice_is_taken_whole(daemon: HttpDaemon) -> None:
    sent = [each for step in range(30) for number in range(100) for each in make_rows(f"s{number}", number, [step])]
    await daemon.accept(sent)
    for number in (0, 57, 99):
        assert is_same_array(
            await daemon.window(f"s{number}"), make_window(make_rows(f"s{number}", number, range(30)), 29)
        )


async def test_an_empty_list_is_taken(daemon: HttpDaemon) -> None:
    assert (await daemon.post("/v1/samples", {"samples": []})).body == {"accepted": 0, "rejected": 0, "errors": []}


# ---------------------------------------------------------------- a body that is refused whole
@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_another_type_is_415(daemon: HttpDaemon, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    reply = await daemon.call("POST", "/v1/samples", b'{"samples": []}', headers)
    assert (reply.status, reply.code) == (415, "unsupported_media_type")


async def test_a_body_over_the_limit_is_413(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_body_bytes=1_000)))
    for data in (b" " * 1_001, pack({"samples": make_rows("a", 1, range(20))}, JSON)):
        reply = await daemon.post_bytes("/v1/samples", data)
        assert (reply.status, reply.code) == (413, "too_large")
    assert (await daemon.post_bytes("/v1/samples", b'{"samples": []}'.ljust(1_000))).status == 200


async def test_bodies_beyond_the_pending_bytes_are_429_with_retry_after(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(limits=TransportLimits(max_pending_body_bytes=64)))
    _, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    writer.write(
        b"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    )
    reply = await daemon.post("/v1/samples", {"samples": []})
    assert reply.status == 200, "what is announced and not sent does not count"
    reply = await daemon.post_bytes("/v1/samples", b'{"samples": []}'.ljust(100))
    assert (reply.status, reply.code) == (429, "too_busy")
    assert int(reply.headers["Retry-After"]) >= 1
    writer.close()
    await writer.wait_closed()
    assert (await daemon.post("/v1/samples", {"samples": []})).status == 200


async def test_draining_is_503_everywhere(daemon: HttpDaemon) -> None:
    daemon.backend.script.hold = True
    await daemon.accept(make_rows("a", 1, range(3)))
    async with daemon.socket("/v1/ingest") as agent, daemon.subscribed() as reader:
        assert (await agent.ask({"samples": []}))["type"] == "ack"
        drain = asyncio.create_task(daemon.service.drain())
        await asyncio.sleep(0)
        reply = await daemon.post("/v1/samples", {"samples": [make_sample("b", 0)]})
        assert (reply.status, reply.code) == (503, "draining")
        assert "Retry-After" in reply.headers
        reply = await daemon.post("/v1/predict", {"encoder_cont": []})
        assert (reply.status, reply.code) == (503, "draining")
        assert (await agent.ask({"samples": [make_sample("b", 0)]}))["code"] == "draining"
        assert (await daemon.get("/readyz")).status == 503
        assert (await daemon.get("/healthz")).status == 200
        assert (await daemon.get("/v1/servers/b")).status == 404
        # 2. Forecasts in progress are finished and delivered.
        assert not drain.done()
        daemon.release_lanes()
        await drain
        assert (await reader.receive())["server"] == "a"


async def test_messagepack_times_may_be_timestamps(daemon: HttpDaemon) -> None:
    stamp = msgspec.msgpack.Ext(-1, at(2).to_bytes(4, "big"))
    body = msgspec.msgpack.encode({"samples": [{"server": "a", "time": stamp, "values": values_of(1, 2)}]})
    assert (await daemon.post_bytes("/v1/samples", body, MSGPACK)).body["accepted"] == 1
    assert (await daemon.get("/v1/servers/a")).body["origin"] == origin(2)


# ---------------------------------------------------------------- times in a finer unit than seconds
UNITS = [(10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")]


async def send_both_ways(daemon: HttpDaemon, body: Message, content_type: str) -> list[Message]:
    """Send a body by both calls that take samples, and return both answers."""
    async with daemon.socket("/v1/ingest", content_type) as agent:
        return [(await daemon.post("/v1/samples", body, content_type)).body, await agent.ask(body)]


def make_bodies(time: Any, content_type: str) -> list[Message]:
    """Return bodies with one sample at this time, in each form of a body."""
    numbers = np.ones((1, len(FEATURES)), np.float32)
    values = make_tensor(numbers) if content_type == MSGPACK else numbers.tolist()
    return [
        {"samples": [{"server": "a", "time": time, "values": values_of(1, 2)}]},
        *({"columns": {"servers": ["a"], "time": t, "features": FEATURES, "values": values}} for t in (time, [time])),
    ]


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize(("factor", "unit"), UNITS)
@pytest.mark.parametrize("kind", [int, float])
async def test_the_unit_of_a_time_in_a_finer_unit_is_named(
    daemon: HttpDaemon, content_type: str, factor: int, unit: str, kind: type[float]
) -> None:
    for body in make_bodies(kind(at(2) * factor), content_type):
        for answer in await send_both_ways(daemon, body, content_type):
            assert answer["rejected"] == 1
            (error,) = answer["errors"]
            assert error["code"] == "too_far_ahead"
            assert f"it looks like {unit}, and epoch seconds are expected" in error["message"]


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("time", [4_000_000_000, "2100-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
async def test_a_time_that_is_only_ahead_looks_like_no_other_unit(
    daemon: HttpDaemon, content_type: str, time: float | str
) -> None:
    for body in make_bodies(time, content_type):
        for answer in await send_both_ways(daemon, body, content_type):
            (error,) = answer["errors"]
            assert error["code"] == "too_far_ahead"
            assert "looks like" not in error["message"]


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("time", [f"{at(2)}", f"{at(2)}000", "2023-11-14T22:16:00", "noon", "", None, [], True])
async def test_the_error_of_an_invalid_time_states_the_expected_form(
    daemon: HttpDaemon, content_type: str, time: Any
) -> None:
    for body in make_bodies(time, content_type)[:2]:
        if time == []:  # as the time of columns this is a list that is too short
            continue
        for answer in await send_both_ways(daemon, body, content_type):
            (error,) = answer["errors"]
            assert error["code"] == "invalid_time"
            assert "expected epoch seconds as a number, or RFC 3339 with an offset" in error["message"]
