"""Tests `streamd/http/wire/*.py`: ten thousand mutated frames do not affect a neighbour on the same daemon."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.http.conftest import Start
from tests.support.http_harness import (
    CONTRACT,
    JSON,
    MSGPACK,
    NEED,
    TYPES,
    HttpDaemon,
    HttpDaemonSettings,
    Message,
    Socket,
    at,
    is_same_array,
    make_rows,
    make_sample,
    make_tensor,
    make_window,
    make_wire_forecast,
    origin,
    pack,
    read_array,
)
from tests.support.memory_use import resident_bytes

SEED = 20_231_114
FRAMES_PER_TURN = 40
NEIGHBOUR = "q7Zk0vXw-neighbour-that-no-mutation-spells"

Columns = dict[str, Any]


def make_columns(values: Any, time: Any) -> Message:
    return {"columns": {"servers": ["c-1", "c-2"], "time": time, "features": list(CONTRACT.features), "values": values}}


def make_ingest_frames(content_type: str) -> list[bytes]:
    rows = np.arange(6, dtype="<f4").reshape(2, 3)
    messages: list[Message] = [
        {"samples": make_rows("web-01", 1, range(4))},
        {"id": 17, "samples": [make_sample("a", 0, status=3), make_sample("b", 1, {"cpu_user": None, "fan": 1.0})]},
        {"id": "x", "samples": [make_sample("é☃", 2) | {"time": "2023-11-14T22:16:00Z"}]},
        {"samples": [make_sample("", 0), make_sample("a", -50), make_sample("b", 0, {"cpu_user": 1e30})]},
        {"samples": []},
        make_columns(rows.tolist(), at(0)),
        make_columns([[None, 1, 2], [3, 4, 5.5]], [at(1), "2023-11-14T22:16:00+01:00"]),
    ]
    if content_type == MSGPACK:
        messages += [
            make_columns(make_tensor(rows), at(2)),
            make_columns(make_tensor(rows.astype("<f2")), [at(3), at(4)]),
        ]
    return [pack(message, content_type) for message in messages]


def make_predict_frames(content_type: str) -> list[bytes]:
    given = {name: np.ones((2, *shape), "<f4") for name, shape in CONTRACT.input_shapes.items()}
    if content_type == MSGPACK:
        return [pack({"inputs": {name: make_tensor(array) for name, array in given.items()}}, MSGPACK)]
    return [pack({name: array.tolist() for name, array in given.items()}, JSON)]


class Mutator:
    """An endless source of frames with random damage; the same seed gives the same frames."""

    def __init__(self, corpus: list[bytes], seed: int) -> None:
        self._corpus = corpus
        self._random = random.Random(seed)
        self._changes = (self._flip, self._cut, self._remove, self._repeat, self._splice, self._insert)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            frame = self._random.choice(self._corpus)
            for _ in range(self._random.choice((1, 1, 2, 3))):
                frame = self._random.choice(self._changes)(frame)
            yield frame

    def _span(self, frame: bytes) -> tuple[int, int]:
        begin = self._random.randint(0, len(frame))
        return begin, self._random.randint(begin, min(len(frame), begin + 64))

    def _flip(self, frame: bytes) -> bytes:
        changed = bytearray(frame)
        for _ in range(self._random.randint(1, 8) if frame else 0):
            changed[self._random.randrange(len(changed))] ^= 1 << self._random.randrange(8)
        return bytes(changed)

    def _cut(self, frame: bytes) -> bytes:
        return frame[: self._random.randint(0, len(frame))]

    def _remove(self, frame: bytes) -> bytes:
        begin, end = self._span(frame)
        return frame[:begin] + frame[end:]

    def _repeat(self, frame: bytes) -> bytes:
        begin, end = self._span(frame)
        return frame[:end] + frame[begin:end] * self._random.randint(1, 4) + frame[end:]

    def _splice(self, frame: bytes) -> bytes:
        other = self._random.choice(self._corpus)
        return frame[: self._random.randint(0, len(frame))] + other[self._random.randint(0, len(other)) :]

    def _insert(self, frame: bytes) -> bytes:
        place = self._random.randint(0, len(frame))
        return frame[:place] + self._random.randbytes(self._random.randint(1, 8)) + frame[place:]


class Neighbour:
    """An agent and a reader. In each turn its sample must be taken, and forecast as if it were alone."""

    def __init__(self, agent: Socket, reader: Socket) -> None:
        self._agent = agent
        self._reader = reader
        self.sent: list[Message] = []

    async def take_turn(self) -> None:
        step = len(self.sent)
        self.sent += make_rows(NEIGHBOUR, 7, [step])
        ack = await self._agent.ask({"id": step, "samples": self.sent[-1:]})
        assert ack == {"type": "ack", "id": step, "accepted": 1, "rejected": 0, "errors": []}
        if step + 1 >= NEED:
            message = await self._reader.receive()
            assert (message["server"], message["origin"]) == (NEIGHBOUR, origin(step))
            assert is_same_array(read_array(message["values"]), make_wire_forecast(make_window(self.sent, step)))


async def send_frames(agent: Socket, frames: list[bytes]) -> None:
    """Send frames; asserts that each gets one answer, an ack or an error, and that the connection stays open."""
    for frame in frames:
        # A text frame that is not UTF-8 ends its connection; `test_ingest_socket.py` tests that.
        await agent.send_bytes(frame.decode(errors="replace").encode() if agent.content_type == JSON else frame)
    for _ in frames:
        answer = await agent.receive()
        if answer["type"] == "error":
            assert answer["code"] in ("malformed", "too_large")
            assert answer["message"]
        else:
            assert answer["type"] == "ack"
            assert set(answer) == {"type", "id", "accepted", "rejected", "errors"}
            assert answer["rejected"] == len(answer["errors"])


async def post_frames(daemon: HttpDaemon, path: str, frames: list[bytes], content_type: str) -> None:
    statuses = {200, 400} if path == "/v1/samples" else {200, 400, 422}
    for frame in frames:
        reply = await daemon.post_bytes(path, frame, content_type)
        assert reply.status in statuses
        if reply.status != 200:
            assert reply.code in ("malformed", "invalid_tensor", "all_missing")


async def test_ten_thousand_mutated_frames_do_not_affect_a_neighbour(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(capacity=4_096))
    mutators = {kind: iter(Mutator(make_ingest_frames(kind), SEED)) for kind in TYPES}
    questions = {kind: iter(Mutator(make_predict_frames(kind), SEED)) for kind in TYPES}
    before = 0
    async with (
        daemon.socket("/v1/ingest", JSON) as text,
        daemon.socket("/v1/ingest", MSGPACK) as binary,
        daemon.socket("/v1/ingest", JSON) as agent,
        daemon.subscribed(servers=[NEIGHBOUR]) as reader,
        daemon.subscribed(MSGPACK, batch=True) as _,
    ):
        neighbour = Neighbour(agent, reader)

        async def turn(count: int) -> None:
            await neighbour.take_turn()
            for socket in (text, binary):
                await send_frames(socket, list(itertools.islice(mutators[socket.content_type], count)))
            for kind in TYPES:
                few = count // 8
                await post_frames(daemon, "/v1/samples", list(itertools.islice(mutators[kind], few)), kind)
                await post_frames(daemon, "/v1/predict", list(itertools.islice(questions[kind], few)), kind)

        frames = 0
        while frames < 10_000:
            await turn(FRAMES_PER_TURN)
            frames += FRAMES_PER_TURN * 5 // 2
            if len(neighbour.sent) == 10:  # by now everything that is allocated once is allocated
                before = resident_bytes()
        grown = resident_bytes() - before
        await neighbour.take_turn()
    assert grown < 64 * 2**20
    assert is_same_array(await daemon.window(NEIGHBOUR), make_window(neighbour.sent, len(neighbour.sent) - 1))
    await daemon.service.pipeline.wait_idle()
    status = await daemon.status()
    assert status["ready"] is True
    assert status["samples"]["accepted"] > 300
    assert sum(status["samples"]["rejected"].values()) > 300
    rows = status["rows"]
    assert rows["due"] == rows["delivered"] + rows["superseded"] + rows["forgotten"]
