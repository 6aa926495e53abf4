"""Senders of rows that go to another node when theirs does not answer, and note what was acknowledged.

A sender repeats a frame until it was taken, so that a row may reach the log several times. It never changes a value
that it has sent: an old frame that waited in a node which was cut off may come after a newer one.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from random import Random

from benchmarks.chaos.history import CELLS, CellWrite, ServerHistory
from benchmarks.chaos.journal import Journal
from benchmarks.chaos.links import MSGPACK, LinkLostError, RefusedError, SampleLink
from benchmarks.chaos.model import CONTRACT, make_value
from benchmarks.chaos.sender import RETRIED_CODES, RETRY_PAUSE_SECONDS

ANSWER_SECONDS = 5.0
CLOSE_SECONDS = 0.2
"""A peer that is cut off does not answer the end of a WebSocket."""

HALVED = 0.05
"""Share of the rows of which one half comes with the next frame."""


class RoamingLink(SampleLink):
    """A link that goes to the next address when one does not answer or refuses."""

    def __init__(self, urls: Sequence[str], *, is_socket: bool, content_type: str = MSGPACK) -> None:
        super().__init__(urls[0], {}, is_socket=is_socket, content_type=content_type)
        self._urls = deque(urls)

    async def exchange(self, payload: bytes) -> dict[str, object]:
        """Send a body and return its answer; raises `LinkLostError` and `RefusedError`."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await super().exchange(payload)
        except TimeoutError as exc:
            await self.disconnect()
            raise LinkLostError(f"no answer in {ANSWER_SECONDS:g} s") from exc
        except RefusedError:
            await self.disconnect()
            raise

    async def disconnect(self) -> None:
        """Close the connection; the next exchange goes to the next address."""
        socket, self._socket = self._socket, None
        self._urls.rotate(-1)
        self._url = self._urls[0]
        if socket is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await socket.close()


class RowSender:
    """Sends a row of each of its servers, by number, in each frame of columns."""

    def __init__(
        self, link: RoamingLink, servers: dict[int, ServerHistory], *, first_step: int, journal: Journal, random: Random
    ) -> None:
        self.is_stopping = False
        self.step = first_step
        self.acked_rows = 0
        self._link = link
        self._servers = servers
        self._journal = journal
        self._random = random
        self._halved: list[int] = []

    async def run(self, pause_seconds: float) -> None:
        """Send a frame each `pause_seconds`, until `is_stopping`; then a last whole row of each server."""
        while not self.is_stopping:
            began = time.monotonic()
            await self._send_step(HALVED)
            await asyncio.sleep(max(0.0, pause_seconds - (time.monotonic() - began)))
        await self._send_step(0.0)

    async def close(self) -> None:
        """Close its connection."""
        await self._link.close()

    async def _send_step(self, halved: float) -> None:
        rows = [(number, self.step, CELLS[2:]) for number in self._halved]
        self.step += 1
        self._halved = [number for number in self._servers if self._random.random() < halved]
        missing = set(self._halved)
        rows += [(number, self.step, CELLS[:2] if number in missing else CELLS) for number in self._servers]
        await self._deliver(rows)

    async def _deliver(self, rows: Sequence[tuple[int, int, range]]) -> None:
        now = time.monotonic()
        writes = [
            self._servers[number].begin_write(step, {cell: make_value(number, step, cell, 0) for cell in cells}, now)
            for number, step, cells in rows
        ]
        payload = self._link.encode({"columns": self._make_columns(rows)})
        while not await self._try(payload, writes):
            await asyncio.sleep(RETRY_PAUSE_SECONDS)

    def _make_columns(self, rows: Sequence[tuple[int, int, range]]) -> dict[str, object]:
        values: list[list[float | None]] = [
            [make_value(number, step, cell, 0) if cell in cells else None for cell in CELLS]
            for number, step, cells in rows
        ]
        return {
            "servers": [self._servers[number].name for number, _, _ in rows],
            "time": [step * CONTRACT.step_seconds for _, step, _ in rows],
            "features": [CONTRACT.features[cell] for cell in CELLS],
            "values": self._link.make_values(values),
        }

    async def _try(self, payload: bytes, writes: Sequence[Sequence[CellWrite]]) -> bool:
        """Send a frame once; returns whether all of it was taken."""
        try:
            answer = await self._link.exchange(payload)
        except LinkLostError:
            self._count("lost")
            return False
        except RefusedError as error:
            self._count(error.code)
            if error.code not in RETRIED_CODES:
                self._journal.report("unexpected_refusal", str(error))
            return False
        now = time.monotonic()
        errors: list[dict[str, object]] = answer["errors"]  # type: ignore[assignment]  # its form is that of the wire
        refused = {each["index"] for each in errors}
        if answer["accepted"] != len(writes) - len(refused):
            self._journal.report("wrong_ack", f"{answer['accepted']} accepted of {len(writes)}, {len(refused)} listed")
        for each in errors:
            self._count(f"row {each['code']}")
            if each["code"] not in RETRIED_CODES:
                self._journal.report("unexpected_rejection", f"{each}")
        for index, row in enumerate(writes):
            if index not in refused:
                self.acked_rows += 1
                for write in row:
                    write.acked_at = write.acked_at or now
        return not refused

    def _count(self, code: str) -> None:
        self._journal.count(f"frames {code}")
