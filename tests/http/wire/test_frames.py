"""Tests `streamd/http/wire/frames.py`: frames of many forecasts, and the memory that frames take in the cache."""

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamd.core.selection import ForecastSlice, make_forecast_slice
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.frames import FrameEncoder
from streamd.runtime.forecast_cutter import ForecastCutter
from tests.http.conftest import Start
from tests.support.http_harness import (
    CONTRACT,
    JSON,
    MODEL,
    MSGPACK,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    Message,
    make_rows,
    origin,
    read_array,
    unpack,
)

LARGE = replace(CONTRACT, horizon=100)
HEADER_BYTES = 80
"""Of a bytes object, and what the allocator rounds up to."""


@pytest.mark.parametrize("encoding", Encoding)
async def test_a_frame_takes_no_more_memory_than_its_bytes(start: Start, encoding: Encoding) -> None:
    get_usable_bytes = getattr(ctypes.CDLL(None), "malloc_usable_size", None)
    if get_usable_bytes is None:
        pytest.skip("without glibc the size of a block is unknown")
    get_usable_bytes.argtypes, get_usable_bytes.restype = [ctypes.c_void_p], ctypes.c_size_t
    daemon = await start(HttpDaemonSettings(contract=LARGE))
    async with daemon.subscribed() as socket:
        await daemon.accept(make_rows("a", 1, range(NEED)))
        await socket.receive()
    part = make_forecast_slice(LARGE, None, None, 1, "float32")
    frame = FrameEncoder(daemon.service).encode_forecast(daemon.service.state.directory.slots["a"], part, encoding)
    assert frame is not None
    assert len(frame) > 512, "smaller blocks are not those of malloc"
    assert get_usable_bytes(id(frame)) <= len(frame) + HEADER_BYTES


SERVERS = [f"s{number}" for number in range(5)]
TYPE_OF = {Encoding.JSON: JSON, Encoding.MSGPACK: MSGPACK}
WHOLE = make_forecast_slice(CONTRACT, None, None)


@pytest.fixture
async def posted(daemon: HttpDaemon) -> HttpDaemon:
    """Return a daemon with a forecast of each of `SERVERS`, made from different numbers of rows."""
    async with daemon.subscribed() as reader:
        for number, name in enumerate(SERVERS):
            await daemon.accept(make_rows(name, 10_000 * number, range(NEED + number)))
            while (await reader.receive())["origin"] != origin(NEED + number - 1):
                pass
    return daemon


def encode(daemon: HttpDaemon, slots: list[int], part: ForecastSlice, encoding: Encoding) -> Message | None:
    frame = FrameEncoder(daemon.service).encode_forecasts(np.array(slots, np.int64), part, encoding).frame
    return None if frame is None else unpack(bytes(frame), TYPE_OF[encoding])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    slots=st.lists(st.integers(0, len(SERVERS) - 1), min_size=1, unique=True),
    encoding=st.sampled_from(Encoding),
    dtype=st.sampled_from(["float32", "float16"]),
    targets=st.none() | st.lists(st.sampled_from(CONTRACT.targets), min_size=1, unique=True),
    every=st.integers(1, CONTRACT.horizon),
)
async def test_a_batch_frame_has_what_the_frames_of_single_forecasts_have(
    posted: HttpDaemon, slots: list[int], encoding: Encoding, dtype: str, targets: list[str] | None, every: int
) -> None:
    part = make_forecast_slice(CONTRACT, targets, None, every, dtype)
    encoder = FrameEncoder(posted.service)
    batch = encode(posted, slots, part, encoding)
    assert batch is not None
    singles = [unpack(bytes(encoder.encode_forecast(slot, part, encoding) or b""), TYPE_OF[encoding]) for slot in slots]
    for many, one in (("servers", "server"), ("origins", "origin"), ("contexts", "context")):
        assert batch.pop(many) == [single.pop(one) for single in singles]
    values = read_array(batch.pop("values"))
    for place, single in enumerate(singles):
        np.testing.assert_array_equal(values[place], read_array(single.pop("values")))
        assert {**batch, "type": "forecast"} == single
    assert list(batch)[:2] == ["type", "step_seconds"]


async def test_names_one_model_or_that_of_each_forecast(posted: HttpDaemon) -> None:
    board = posted.service.state.board
    first = encode(posted, [0, 1], WHOLE, Encoding.MSGPACK)
    assert first is not None
    assert first["model"] == MODEL
    board.post(1, 9, 3, b"other", board.values[0].copy())
    second = encode(posted, [0, 1, 2], WHOLE, Encoding.MSGPACK)
    assert second is not None
    assert second["model"] == [MODEL, "other", MODEL]


@pytest.mark.parametrize("encoding", Encoding)
async def test_servers_without_a_forecast_are_left_out(posted: HttpDaemon, encoding: Encoding) -> None:
    unused = len(SERVERS)
    frame = encode(posted, [3, unused, 1], WHOLE, encoding)
    assert frame is not None
    assert frame["servers"] == ["s3", "s1"]
    assert len(read_array(frame["values"])) == 2
    assert encode(posted, [unused], WHOLE, encoding) is None
    assert encode(posted, [], WHOLE, encoding) is None


async def test_a_frame_is_encoded_once_for_all_readers_of_its_form(posted: HttpDaemon) -> None:
    encoder, slots = FrameEncoder(posted.service), np.array([2, 0, 1])
    frame = encoder.encode_forecasts(slots, WHOLE, Encoding.MSGPACK).frame
    assert encoder.encode_forecasts(slots.copy(), WHOLE, Encoding.MSGPACK).frame is frame
    assert encoder.encode_forecasts(slots, WHOLE, Encoding.JSON).frame is not frame
    board = posted.service.state.board
    board.post(0, 9, 3, MODEL.encode(), board.values[1].copy())
    newer = encoder.encode_forecasts(slots, WHOLE, Encoding.MSGPACK).frame
    assert newer is not frame
    assert newer is not None
    assert unpack(bytes(newer), MSGPACK)["origins"][1] == CONTRACT.to_origin(9)


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("replaced", [[0], [0, 1, 2]])
async def test_a_forecast_that_another_process_replaces_meanwhile_is_left_out(
    posted: HttpDaemon, monkeypatch: pytest.MonkeyPatch, encoding: Encoding, replaced: list[int]
) -> None:
    board, left = posted.service.state.board, list(replaced)
    cut_into = ForecastCutter.cut_into

    def cut_while_another_posts(self: ForecastCutter, *given: Any) -> None:
        cut_into(self, *given)
        if left:
            slot = left.pop()
            board.post(slot, 9, 3, MODEL.encode(), board.values[slot] + 1)

    monkeypatch.setattr(ForecastCutter, "cut_into", cut_while_another_posts)
    frame = encode(posted, [0, 1, 2], WHOLE, encoding)
    expected = [f"s{slot}" for slot in range(3) if slot not in replaced]
    assert (frame or {"servers": []})["servers"] == expected
    assert (frame is None) == (not expected)


@pytest.mark.parametrize("encoding", Encoding)
async def test_a_single_forecast_that_is_replaced_meanwhile_is_left_out(
    posted: HttpDaemon, monkeypatch: pytest.MonkeyPatch, encoding: Encoding
) -> None:
    board, cut = posted.service.state.board, ForecastSlice.cut
    is_replaced = False

    def cut_while_another_posts(self: ForecastSlice, values: Any) -> Any:
        nonlocal is_replaced
        if not is_replaced:
            is_replaced = True
            board.post(2, 9, 3, MODEL.encode(), board.values[2] + 1)
        return cut(self, values)

    monkeypatch.setattr(ForecastSlice, "cut", cut_while_another_posts)
    encoder = FrameEncoder(posted.service)
    assert encoder.encode_forecast(2, WHOLE, encoding) is None
    frame = encoder.encode_forecast(2, WHOLE, encoding)
    assert frame is not None
    message = unpack(bytes(frame), TYPE_OF[encoding])
    assert (message["origin"], message["context"]) == (CONTRACT.to_origin(9), 3)
    np.testing.assert_array_equal(read_array(message["values"]), board.values[2])


@pytest.mark.parametrize("encoding", Encoding)
async def test_a_forecast_that_is_not_published_yet_is_left_out(posted: HttpDaemon, encoding: Encoding) -> None:
    board, encoder = posted.service.state.board, FrameEncoder(posted.service)
    published = board.last_serial
    serial = board.post(2, 9, 3, MODEL.encode(), board.values[2] + 1)
    board.last_serial = published  # as another process posts
    assert encoder.encode_forecast(2, WHOLE, encoding) is None
    assert encoder.encode_forecasts(np.array([1, 2, 3]), WHOLE, encoding).slots.tolist() == [1, 3]
    assert board.publish_up_to(np.array([2]), serial).tolist() == [2]
    assert encoder.encode_forecast(2, WHOLE, encoding) is not None


@pytest.mark.parametrize("encoding", Encoding)
async def test_in_a_cluster_forecasts_have_their_fences(posted: HttpDaemon, encoding: Encoding) -> None:
    slots = np.array([2, 0, 1])
    fences = np.zeros(posted.service.state.directory.capacity, np.int64)
    fences[slots] = 7, 0, 9
    posted.service.fences = fences
    batch = encode(posted, slots.tolist(), WHOLE, encoding)
    assert batch is not None
    assert batch["fences"] == [7, 0, 9]
    encoder = FrameEncoder(posted.service)
    message = encoder.make_message(2, WHOLE, encoding)
    assert message is not None
    assert message["fence"] == 7
    # Two servers of a cluster may have one serial.
    posted.service.state.board._arrays["serial"][slots] = 1
    frames = [encoder.encode_forecast(slot, WHOLE, encoding) for slot in slots.tolist()]
    assert len(set(map(bytes, filter(None, frames)))) == 3
