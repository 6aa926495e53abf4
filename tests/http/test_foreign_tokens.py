"""Tests `streamd/http/foreign_tokens.py`: a sample with a token that is not JSON is refused, and no other."""

import json
import math
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import MalformedError, StreamdError
from streamd.core.state.samples import Sample
from streamd.http import foreign_tokens
from streamd.http.foreign_tokens import mark_foreign_tokens
from streamd.http.wire.bodies import decode_body
from streamd.http.wire.codecs import Encoding
from tests.support.http_harness import (
    CONTRACT,
    JSON,
    MSGPACK,
    NEED,
    HttpDaemon,
    Message,
    at,
    is_same_array,
    make_question,
    make_rows,
    make_sample,
    make_window,
    pack,
)

NAN, INFINITY = float("nan"), float("inf")
FEATURES = list(CONTRACT.features)

FAULTS: list[tuple[str, Any, str, list[str]]] = [
    ("NaN", make_sample("x", 0, {"cpu_user": NAN}), "invalid_value", ["values.cpu_user", "NaN", "send null"]),
    (
        "Infinity",
        make_sample("x", 0, {"mem_used": -INFINITY}),
        "invalid_value",
        ["values.mem_used", "-Infinity", "send null"],
    ),
    ("a surrogate", make_sample("web-\udcff", 0), "invalid_server", ["server", "\\udcff", "Unicode"]),
    ("NaN as time", make_sample("x", 0) | {"time": NAN}, "invalid_time", ["time", "NaN"]),
    ("a feature's name", make_sample("x", 0, {"\ud800": 1.0}), "invalid_sample", ["feature", "\\ud800"]),
    (
        "a value of a feature with an odd name",
        make_sample("x", 0, {"é\u2028\\udcff": NAN}),
        "invalid_value",
        ["values.\\xe9", "send null"],
    ),
]
"""Samples as Python's `json` writes them, with the code of their error and the words that its message must contain."""

GOOD = [
    *make_rows("good", 5, range(NEED)),
    # Strings in which the tokens are text are valid, and so are pairs of surrogates.
    make_sample('NaN, "Infinity": [NaN, -Infinity] \\ud800 \\', 0),
    make_sample("\U0001f600\\", 0),
]


@pytest.mark.parametrize(
    ("bad", "code", "named"), [pytest.param(bad, code, named, id=name) for name, bad, code, named in FAULTS]
)
@pytest.mark.parametrize("place", [0, 2, len(GOOD)])
async def test_only_the_sample_with_the_token_is_refused(
    daemon: HttpDaemon, bad: Message, code: str, named: list[str], place: int
) -> None:
    samples = [*GOOD[:place], bad, *GOOD[place:]]
    body = json.dumps({"host": "\udcff", "mean": NAN, "samples": samples, "id": 7}).encode()
    answer = (await daemon.post_bytes("/v1/samples", body)).body
    await assert_refused(daemon, answer, code, named, place)


@pytest.mark.parametrize(
    ("bad", "code", "named"), [pytest.param(bad, code, named, id=name) for name, bad, code, named in FAULTS]
)
async def test_a_frame_is_treated_like_a_body(daemon: HttpDaemon, bad: Message, code: str, named: list[str]) -> None:
    async with daemon.socket("/v1/ingest", JSON) as agent:
        await agent.send_bytes(json.dumps({"id": "\U0001f600", "samples": [*GOOD, bad]}).encode())
        ack = await agent.receive()
        assert (ack.pop("type"), ack.pop("id")) == ("ack", "\U0001f600")
        await assert_refused(daemon, ack, code, named, len(GOOD))
        assert (await agent.ask({"id": 1, "samples": []}))["accepted"] == 0


async def assert_refused(daemon: HttpDaemon, answer: Message, code: str, named: list[str], place: int) -> None:
    """Assert that all good samples are in, and that the error of the bad one names its place and the remedy."""
    assert (answer["accepted"], answer["rejected"]) == (len(GOOD), 1)
    (error,) = answer["errors"]
    assert (error["index"], error["code"]) == (place, code)
    assert [word for word in named if word not in error["message"]] == []
    assert is_same_array(await daemon.window("good"), make_window(GOOD[:NEED], NEED - 1))
    status = await daemon.status()
    assert status["servers"] == 3
    assert status["samples"]["rejected"] == {code: 1}


async def test_bytes_that_are_not_utf8_and_a_nan_are_refused_separately(daemon: HttpDaemon) -> None:
    texts = [json.dumps(each).encode() for each in (make_sample("a", 0), make_sample("b", 0, {"cpu_user": NAN}))]
    body = b'{"samples":[' + b",".join([*texts, texts[0].replace(b'"a"', b'"\xff"')]) + b"]}"
    answer = (await daemon.post_bytes("/v1/samples", body)).body
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [
        (1, "invalid_value"),
        (2, "invalid_sample"),
    ]


# ---------------------------------------------------------------- columns
def columns(**given: Any) -> Message:
    whole = {
        "servers": ["a", "b", "c"],
        "time": [at(0)] * 3,
        "features": FEATURES,
        "values": [[1.0, 2.0, 3.0], [4.0, None, 6.0], [7.0, 8.0, 9.0]],
    }
    return {"columns": whole | given}


COLUMNS: list[tuple[str, Message, dict[int, tuple[str, list[str]]]]] = [
    (
        "NaN",
        columns(values=[[1.0, 2.0, 3.0], [4.0, NAN, 6.0], [7.0, 8.0, -INFINITY]]),
        {
            1: ("invalid_value", ["values.mem_used", "NaN", "send null"]),
            2: ("invalid_value", ["values.load_average", "-Infinity", "send null"]),
        },
    ),
    ("a surrogate", columns(servers=["a", "\udcff", "c"]), {1: ("invalid_server", ["server", "\\udcff"])}),
    ("NaN as a time", columns(time=[at(0), NAN, at(0)]), {1: ("invalid_time", ["time", "NaN"])}),
    ("NaN as the time of all", columns(time=NAN), {row: ("invalid_time", ["time", "NaN"]) for row in range(3)}),
    (
        "all at once",
        columns(servers=["a", "\ud800", "c"], time=[NAN, at(0), at(0)], values=[[1.0] * 3, [2.0] * 3, [NAN] * 3]),
        {0: ("invalid_time", []), 1: ("invalid_server", []), 2: ("invalid_value", ["values.cpu_user"])},
    ),
]


@pytest.mark.parametrize("by_frame", [False, True])
@pytest.mark.parametrize(("body", "errors"), [pytest.param(body, errors, id=name) for name, body, errors in COLUMNS])
async def test_only_the_row_with_the_token_is_refused(
    daemon: HttpDaemon, body: Message, errors: dict[int, tuple[str, list[str]]], by_frame: bool
) -> None:
    data = json.dumps(body).encode()
    if by_frame:
        async with daemon.socket("/v1/ingest", JSON) as agent:
            await agent.send_bytes(data)
            answer = await agent.receive()
    else:
        answer = (await daemon.post_bytes("/v1/samples", data)).body
    assert_rows(answer, errors)
    kept = [name for row, name in enumerate("abc") if row not in errors]
    assert [entry["server"] for entry in (await daemon.get("/v1/servers")).body["servers"]] == kept


def assert_rows(answer: Message, errors: dict[int, tuple[str, list[str]]]) -> None:
    assert (answer["accepted"], answer["rejected"]) == (3 - len(errors), len(errors))
    for error, (row, (code, named)) in zip(answer["errors"], errors.items(), strict=True):
        assert (error["index"], error["code"]) == (row, code)
        assert [word for word in named if word not in error["message"]] == []


@pytest.mark.parametrize("code_point", [0xDCFF, 0xD800])
async def test_a_token_in_the_name_of_a_feature_refuses_all_rows(daemon: HttpDaemon, code_point: int) -> None:
    body = columns(features=["cpu_user", chr(code_point), "load_average"])
    reply = await daemon.post_bytes("/v1/samples", json.dumps(body).encode())
    assert (reply.status, reply.code) == (400, "malformed")
    assert "surrogate" in reply.body["message"]
    assert "byte" in reply.body["message"]


NOT_UTF8: list[tuple[str, Message, dict[int, tuple[str, list[str]]]]] = [
    ("a server", columns(servers=["a", "QQ", "c"]), {1: ("invalid_server", ["server", "UTF-8"])}),
    ("a time", columns(time=[at(0), "QQ", at(0)]), {1: ("invalid_time", ["time"])}),
    ("the time of all", columns(time="QQ"), {row: ("invalid_time", ["time"]) for row in range(3)}),
    ("a value", columns(values=[[1.0] * 3, [1.0, "QQ", 1.0], [1.0] * 3]), {1: ("invalid_value", ["values"])}),
    ("a row", columns(values=[[1.0] * 3, "QQ", [1.0] * 3]), {1: ("invalid_value", ["values"])}),
]


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize(("body", "errors"), [pytest.param(body, errors, id=name) for name, body, errors in NOT_UTF8])
async def test_text_that_is_not_utf8_refuses_only_its_row(
    daemon: HttpDaemon, body: Message, errors: dict[int, tuple[str, list[str]]], content_type: str
) -> None:
    data = pack(body, content_type).replace(b"QQ", b"\xff\xfe")
    assert_rows((await daemon.post_bytes("/v1/samples", data, content_type)).body, errors)


@pytest.mark.parametrize("bad", [b"\xc7\x01\xff\x00", b"\xd4\x05\x00", b"\xc4\x01\xff"])
@pytest.mark.parametrize("field", ["servers", "time", "values"])
async def test_an_extension_refuses_only_its_row(daemon: HttpDaemon, field: str, bad: bytes) -> None:
    """The values are a timestamp of an invalid length, an unknown extension, and bytes."""
    body = columns(**{field: [*columns()["columns"][field][:2], "QQ"]})
    data = msgspec.msgpack.encode(body).replace(b"\xa2QQ", bad)
    answer = (await daemon.post_bytes("/v1/samples", data, MSGPACK)).body
    assert (answer["accepted"], [error["index"] for error in answer["errors"]]) == (2, [2])


async def test_nan_in_messagepack_is_missing_and_infinity_says_send_null(daemon: HttpDaemon) -> None:
    body = columns(values=[[1.0, NAN, 3.0], [4.0, INFINITY, 6.0], [7.0, 8.0, 9.0]])
    answer = (await daemon.post("/v1/samples", body, MSGPACK)).body
    assert_rows(answer, {1: ("invalid_value", ["values.mem_used", "inf", "null"])})


# ---------------------------------------------------------------- where a message is one thing
@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_predict_names_the_tensor_and_says_send_null(daemon: HttpDaemon, token: str, wrapped: bool) -> None:
    """A call is answered as a whole or not at all."""
    window = np.ones(CONTRACT.input_shapes["encoder_cont"]).tolist()
    future = np.zeros(CONTRACT.input_shapes["decoder_cont"]).tolist()
    window[2][1] = "TOKEN"
    inputs = {"decoder_cont": future, "encoder_cont": window}
    data = json.dumps({"inputs": inputs} if wrapped else inputs).replace('"TOKEN"', token).encode()
    reply = await daemon.post_bytes("/v1/predict", data)
    assert (reply.status, reply.code) == (400, "malformed")
    for word in (token, "encoder_cont", "send null", f"byte {data.index(b'NaN' if token == 'NaN' else b'Inf')}"):
        assert word in reply.body["message"]
    assert not daemon.backend.script.runs
    # 2. With null in its place it is a missing value.
    reply = await daemon.post_bytes("/v1/predict", data.replace(token.encode(), b"null"))
    assert reply.status == 200


async def test_a_subscription_with_nan_is_refused_and_the_next_is_accepted(daemon: HttpDaemon) -> None:
    async with daemon.socket("/v1/forecasts", JSON) as reader:
        for bad in ('{"type":"subscribe","quantiles":[NaN]}', '{"type":"subscribe","servers":["\\ud800"]}'):
            await reader.send_bytes(bad.encode())
            answer = await reader.receive()
            assert (answer["type"], answer["code"]) == ("error", "malformed")
        assert (await reader.ask({"type": "subscribe"}))["type"] == "subscribed"


async def test_calls_that_have_windows_still_work(daemon: HttpDaemon) -> None:
    assert (await daemon.post("/v1/predict", make_question(1), MSGPACK)).status == 200


# ---------------------------------------------------------------- any samples
PIECES = ["a", '"', "\\", "N", "NaN", "-Infinity", "\ud800", "\udcff", "\U0001f600", "\n", ":", ", "]


def join_pieces(pieces: list[str]) -> str:
    """Join the pieces; adjacent halves of a surrogate pair become one character, as they do in JSON."""
    return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


TEXTS = st.lists(st.sampled_from(PIECES), max_size=4).map(join_pieces)
NUMBERS = st.floats(width=32) | st.none()
SAMPLES = st.fixed_dictionaries(
    {"server": TEXTS, "time": st.just(at(0)) | st.floats(), "values": st.dictionaries(TEXTS, NUMBERS, max_size=3)},
    optional={"labels": st.dictionaries(TEXTS, TEXTS | st.floats(), max_size=2), "status": st.floats() | st.just(3)},
)


def has_foreign(value: Any) -> bool:
    """Whether Python's `json` writes this value as something that is not JSON."""
    if isinstance(value, str):
        return any("\ud800" <= letter <= "\udfff" for letter in value)
    return isinstance(value, float) and not math.isfinite(value)


def must_fail(given: Message) -> bool:
    read = [given["server"], given["time"], *given["values"], *given["values"].values()]
    return any(map(has_foreign, read)) or isinstance(given.get("status"), float)


@given(st.lists(SAMPLES, max_size=5), st.booleans())
def test_each_sample_is_judged_by_itself(samples: list[Message], spaced: bool) -> None:
    text = json.dumps({"samples": samples}, separators=None if spaced else (",", ":"))
    _, judged = decode_body(text.encode(), Encoding.JSON)
    outcomes = list(judged)
    assert [index for index, _ in outcomes] == list(range(len(samples)))
    for (_, one), given_one in zip(outcomes, samples, strict=True):
        assert isinstance(one, Sample) != must_fail(given_one)
        if isinstance(one, Sample):
            assert (one.server, one.values) == (given_one["server"], given_one["values"])
        else:
            assert isinstance(one, StreamdError)
            str(one).encode()  # it must fit into an answer


@given(
    st.lists(
        st.sampled_from([b"NaN", b"Infinity", b"-", b'"', b"\\", b"\\ud800", b"\\udcff", b"a", b"{", b"}", b":", b","])
    )
)
def test_marked_tokens_can_be_restored(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    marked = mark_foreign_tokens(data)
    if marked is not None:
        assert len(marked) >= len(data)
        numbers = re.sub(rb'"\xff(NaN|-?Infinity)"', rb"\1", marked)
        assert re.sub(rb"\xff(u....)", rb"\\\1", numbers) == data
    for encoding in Encoding:
        try:
            _, judged = decode_body(data, encoding)
        except MalformedError as error:
            str(error).encode()
        else:
            list(judged)


@given(
    st.lists(
        st.sampled_from(
            [b"NaN", b"-Infinity", b'"', b"\\", b"\\u", b"\\ud83d\\ude00", b"\\udcff", b"a", b":", b",", b" "]
        ),
        max_size=30,
    ),
    st.integers(1, 5),
)
def test_tokens_are_marked_piece_by_piece_as_in_one_go(parts: list[bytes], piece_bytes: int) -> None:
    data = b"".join(parts)
    whole = mark_foreign_tokens(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign_tokens, "_PIECE_BYTES", piece_bytes)
        assert mark_foreign_tokens(data) == whole


def test_json_that_cannot_be_cut_is_malformed() -> None:
    with pytest.raises(MalformedError, match="longer"):
        mark_foreign_tokens(b'{"a":"' + b"x" * 2**19 + b'","b":NaN}')
    with pytest.raises(MalformedError, match="NaN"):
        decode_body(b'{"a":"' + b"x" * 2**19 + b'","b":NaN}', Encoding.JSON)
