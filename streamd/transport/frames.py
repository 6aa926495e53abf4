"""Forecasts as frames, encoded once for all readers of the same form."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamd.core.selection import Part
from streamd.runtime.service import Service
from streamd.transport.codecs import Encoding, encode
from streamd.transport.tensors import write_tensor

CACHE_BYTES = 16 * 2**20
"""Encoded frames that are kept for further readers: those of the last few batches."""

WORTH_A_THREAD = 16
"""Forecasts of a frame from which on they are narrowed to float16 off the loop: that was a quarter of what a forecast
cost the loop, and numpy lets the GIL go meanwhile."""

MOST_IN_THREADS = 4
"""Frames that are narrowed off the loop at once; one more is made on it, so that no copies of forecasts pile up."""

Form = tuple[Part, Encoding, bool]
Key = tuple[Form, tuple[int, ...]]


class FrameEncoder:
    """Encodes the board's forecasts; the newest frames of each form are kept, up to `CACHE_BYTES`."""

    def __init__(self, service: Service) -> None:
        self._contract = service.contract
        self._board = service.state.board
        self._names = service.state.directory.names
        self._cache: OrderedDict[Key, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._making: dict[Key, asyncio.Future[bytes]] = {}

    def one(self, slot: int, part: Part, encoding: Encoding) -> bytes | None:
        """The `forecast` frame of a slot; none where its server was forgotten."""
        key = self._key((slot,), (part, encoding, False))
        if (frame := self._cache.get(key)) is not None:
            return frame
        message = self.message(slot, part, encoding)
        return None if message is None else self._keep(key, encode(message, encoding))

    async def many(self, slots: Sequence[int], part: Part, encoding: Encoding) -> bytes | None:
        """One `forecasts` frame of several slots, as they are now; none where all their servers were forgotten."""
        key = self._key(slots, (part, encoding, True))
        if (frame := self._cache.get(key)) is not None:
            return frame
        if (making := self._making.get(key)) is None:
            posted = [slot for slot in slots if self._names[slot] is not None and self._board.serial(slot)]
            if not posted:
                return None
            message, values = self._message_of_many(posted, part), self._board.values(posted)
            at_once = len(posted) < WORTH_A_THREAD or len(self._making) >= MOST_IN_THREADS
            if part.dtype != "float16" or at_once:
                return self._keep(key, _encode_many(message, values, part, encoding))
            making = asyncio.ensure_future(asyncio.to_thread(_encode_many, message, values, part, encoding))
            self._making[key] = making
            making.add_done_callback(lambda made: self._made(key, made))
        return await asyncio.shield(making)  # a reader that leaves takes it from no other

    def message(self, slot: int, part: Part, encoding: Encoding) -> dict[str, Any] | None:
        """The `forecast` message of a slot, not encoded yet."""
        forecast, name = self._board.get(slot), self._names[slot]
        if forecast is None or name is None:
            return None
        return {
            "type": "forecast",
            "server": name,
            "origin": self._contract.origin_of(forecast.step),
            "step_seconds": self._contract.step_seconds,
            "model": forecast.model,
            **self._axes(part),
            "values": _values(part.cut(forecast.values), encoding),
            "context": forecast.context,
        }

    def _axes(self, part: Part) -> dict[str, Any]:
        contract = self._contract
        axes: dict[str, Any] = {
            "targets": [contract.targets[place] for place in part.targets],
            "quantiles": [contract.quantiles[place] for place in part.quantiles],
        }
        if part.every > 1:
            axes["every"] = part.every
        return axes

    def _message_of_many(self, posted: Sequence[int], part: Part) -> dict[str, Any]:
        """The `forecasts` message but for its values."""
        steps, contexts, models = self._board.sources(posted)
        return {
            "type": "forecasts",
            "servers": [self._names[slot] for slot in posted],
            "origins": [self._contract.origin_of(step) for step in steps],
            "contexts": contexts,
            "step_seconds": self._contract.step_seconds,
            # One name where one version made them all, which is all but the moment of a change.
            "model": models[0] if len(set(models)) == 1 else models,
            **self._axes(part),
        }

    def _key(self, slots: Sequence[int], form: Form) -> Key:
        # A serial names one forecast for ever, so nothing in the cache is ever out of date.
        return form, tuple(self._board.serial(slot) for slot in slots)

    def _made(self, key: Key, made: "asyncio.Future[bytes]") -> None:
        del self._making[key]
        if not made.cancelled() and made.exception() is None:
            self._keep(key, made.result())

    def _keep(self, key: Key, frame: bytes) -> bytes:
        self._cache[key] = frame
        self._cached_bytes += len(frame)
        while self._cached_bytes > CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= len(oldest)
        return frame


def _encode_many(message: dict[str, Any], values: np.ndarray[Any, Any], part: Part, encoding: Encoding) -> bytes:
    return encode({**message, "values": _values(part.cut(values), encoding)}, encoding)


def _values(values: np.ndarray[Any, Any], encoding: Encoding) -> Any:
    return write_tensor(values) if encoding is Encoding.MSGPACK else values
