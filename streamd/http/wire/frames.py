"""Forecasts as frames, encoded once for all readers that request the same form.

Reads the board and the names of servers; changes neither, and sends nothing.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from streamd.core.selection import ForecastSlice
from streamd.http.wire.codecs import Encoding, encode
from streamd.http.wire.tensors import make_wire_tensor
from streamd.runtime.service import Service

CACHE_BYTES = 16 * 2**20
"""Encoded frames that are cached for further readers: those of the last few batches."""

FrameForm = tuple[ForecastSlice, Encoding, bool]
"""The part of the forecast, its encoding, and whether a frame holds several forecasts."""


class FrameEncoder:
    """An encoder of the forecasts on the board, with a cache of the newest frames of up to `CACHE_BYTES`."""

    def __init__(self, service: Service) -> None:
        self._contract = service.contract
        self._board = service.state.board
        self._names = service.state.directory.names
        self._cache: OrderedDict[tuple[FrameForm, tuple[int, ...]], bytes] = OrderedDict()
        self._cached_bytes = 0

    def encode_forecast(self, slot: int, part: ForecastSlice, encoding: Encoding) -> bytes | None:
        """Return the `forecast` frame of a slot, or `None` if its server was forgotten."""
        return self._find_or_encode((slot,), (part, encoding, False), lambda: self._encode_one(slot, part, encoding))

    def encode_forecasts(self, slots: Sequence[int], part: ForecastSlice, encoding: Encoding) -> bytes | None:
        """Return one `forecasts` frame of several slots, or `None` if all their servers were forgotten."""
        return self._find_or_encode(slots, (part, encoding, True), lambda: self._encode_many(slots, part, encoding))

    def make_message(self, slot: int, part: ForecastSlice, encoding: Encoding) -> dict[str, Any] | None:
        """Return the `forecast` message of a slot, not encoded, or `None` if its server was forgotten."""
        forecast, name = self._board.get_forecast(slot), self._names[slot]
        if forecast is None or name is None:
            return None
        return {
            "type": "forecast",
            "server": name,
            "origin": self._contract.to_origin(forecast.step),
            "step_seconds": self._contract.step_seconds,
            "model": forecast.model,
            **self._describe_axes(part),
            "values": self._to_wire_values(part.cut(forecast.values), encoding),
            "context": forecast.context,
        }

    def _describe_axes(self, part: ForecastSlice) -> dict[str, Any]:
        contract = self._contract
        axes: dict[str, Any] = {
            "targets": [contract.targets[place] for place in part.targets],
            "quantiles": [contract.quantiles[place] for place in part.quantiles],
        }
        if part.every > 1:
            axes["every"] = part.every
        return axes

    def _to_wire_values(self, values: np.ndarray[Any, Any], encoding: Encoding) -> Any:
        return make_wire_tensor(values) if encoding is Encoding.MSGPACK else values

    def _encode_one(self, slot: int, part: ForecastSlice, encoding: Encoding) -> bytes | None:
        message = self.make_message(slot, part, encoding)
        return None if message is None else encode(message, encoding)

    def _encode_many(self, slots: Sequence[int], part: ForecastSlice, encoding: Encoding) -> bytes | None:
        posted = [slot for slot in slots if self._names[slot] is not None and self._board.get_serial(slot)]
        if not posted:
            return None
        steps, contexts, models = self._board.read_sources(posted)
        message = {
            "type": "forecasts",
            "servers": [self._names[slot] for slot in posted],
            "origins": [self._contract.to_origin(step) for step in steps],
            "contexts": contexts,
            "step_seconds": self._contract.step_seconds,
            # One name if one version made all of them: always, except just after a change of versions.
            "model": models[0] if len(set(models)) == 1 else models,
            **self._describe_axes(part),
            "values": self._to_wire_values(part.cut(self._board.read_values(posted)), encoding),
        }
        return encode(message, encoding)

    def _find_or_encode(
        self, slots: Sequence[int], form: FrameForm, encode_frame: Callable[[], bytes | None]
    ) -> bytes | None:
        # A serial is never used for another forecast, so no frame in the cache is ever out of date.
        key = (form, tuple(self._board.get_serial(slot) for slot in slots))
        frame = self._cache.get(key)
        if frame is None:
            frame = encode_frame()
            if frame is not None:
                # The encoders leave a frame in a buffer of up to three times its size; to copy it takes 1 µs.
                frame = bytes(memoryview(frame))
                self._store(key, frame)
        return frame

    def _store(self, key: tuple[FrameForm, tuple[int, ...]], frame: bytes) -> None:
        self._cache[key] = frame
        self._cached_bytes += len(frame)
        while self._cached_bytes > CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= len(oldest)
