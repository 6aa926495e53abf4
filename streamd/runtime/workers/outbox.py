"""Single samples that are handed on by the names of their servers, since `parcels.py` cannot take them as rows: all of
one turn of the loop in one message to each worker.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from streamd.core.state.samples import CellSample
from streamd.runtime.workers.errors import describe_error, restore_error
from streamd.runtime.workers.messages import HandOnSingles, TakenSingles
from streamd.runtime.workers.parcels import Errors
from streamd.runtime.workers.worker_gate import WorkerGate

MAX_SINGLES, MAX_BYTES = 512, 2**18
"""Samples of one message and their bytes, or those of one more batch: it has to fit into a ring, with others."""

_encode = msgspec.msgpack.Encoder().encode


class _Parcel:
    """The samples of one message, and those who wait for the answer: each for some of the samples, in their order."""

    __slots__ = ("samples", "size_bytes", "waiting")

    def __init__(self) -> None:
        self.samples: list[msgspec.Raw] = []
        self.size_bytes = 0
        self.waiting: list[tuple[int, asyncio.Future[Errors]]] = []

    def add(self, samples: Sequence[CellSample[Any]], answer: "asyncio.Future[Errors]") -> None:
        """Add the samples of one who waits."""
        encoded = [msgspec.Raw(_encode(sample)) for sample in samples]
        self.samples += encoded
        self.size_bytes += sum(map(len, encoded))
        self.waiting.append((len(samples), answer))

    @property
    def is_full(self) -> bool:
        """Whether it has as many samples or bytes as a message may have."""
        return len(self.samples) >= MAX_SINGLES or self.size_bytes >= MAX_BYTES

    def resolve(self, answer: "asyncio.Future[TakenSingles]") -> None:
        """Pass the answer on to those who wait."""
        if answer.cancelled() or (failure := answer.exception()) is not None:
            self._fail(asyncio.CancelledError() if answer.cancelled() else failure)
            return
        found = {place: restore_error(code, text) for place, code, text in answer.result().errors}
        first = 0
        for count, future in self.waiting:
            if not future.done():
                future.set_result([found.get(place) for place in range(first, first + count)] if found else [])
            first += count

    def _fail(self, failure: BaseException | None) -> None:
        for _, future in self.waiting:
            if failure is None or isinstance(failure, asyncio.CancelledError):
                future.cancel()
            elif not future.done():
                future.set_exception(failure)


class Outbox:
    """The samples of this turn of the loop, by the worker that owns their servers."""

    def __init__(self, gate: WorkerGate) -> None:
        self._gate = gate
        self._parcels: dict[tuple[int, bool], _Parcel] = {}

    def hand_on(self, owner: int, samples: Sequence[CellSample[Any]], *, may_evict: bool) -> "asyncio.Future[Errors]":
        """Hand samples on at the end of this turn; returns their errors to come, empty if all are accepted.

        They fail with `UnavailableError` if the samples are lost.
        """
        loop = asyncio.get_running_loop()
        if not self._parcels:
            loop.call_soon(self._send_all)
        parcel = self._parcels.get((owner, may_evict))
        if parcel is None:
            parcel = self._parcels[owner, may_evict] = _Parcel()
        future: asyncio.Future[Errors] = loop.create_future()
        parcel.add(samples, future)
        if parcel.is_full:
            self._send(owner, may_evict)
        return future

    def _send_all(self) -> None:
        for owner, may_evict in list(self._parcels):
            self._send(owner, may_evict)

    def _send(self, owner: int, may_evict: bool) -> None:
        parcel = self._parcels.pop((owner, may_evict))
        samples = _encode(parcel.samples)
        answer = self._gate.ask(owner, lambda number: HandOnSingles(number, samples, may_evict))
        answer.add_done_callback(parcel.resolve)


class SinglesUnpacker:
    """Reads single samples out of messages; `cells_type` is that of `RowReader`."""

    def __init__(self, cells_type: type[msgspec.Struct]) -> None:
        samples_type: Any = list[CellSample[cells_type]]  # type: ignore[valid-type]
        self._decode: Callable[[bytes], list[CellSample[Any]]] = msgspec.msgpack.Decoder(samples_type).decode

    def unpack(self, message: HandOnSingles) -> list[CellSample[Any]]:
        """Return the samples that another worker handed on."""
        return self._decode(message.samples)


def describe_errors(errors: Errors) -> list[tuple[int, str, str]]:
    """Return the place, the code and the text of each error."""
    return [(place, *describe_error(error)) for place, error in enumerate(errors) if error is not None]
