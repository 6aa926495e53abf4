"""Tests `streamd/http/wire/frames.py`: a frame in the cache takes the memory that it counts."""

import ctypes
from dataclasses import replace

import pytest

from streamd.core.selection import make_forecast_slice
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.frames import FrameEncoder
from tests.http.conftest import Start
from tests.support.http_harness import CONTRACT, NEED, HttpDaemonSettings, make_rows

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
