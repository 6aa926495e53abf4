"""Forecasts as frames, encoded once for all readers of the same form."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from streamd.core.selection import ForecastSlice
from streamd.http.wire.codecs import Encoding, encode
from streamd.http.wire.tensors import make_wire_tensor
from streamd.runtime.service import Service

CACHE_BYTES = 16 * 2**20
"""Encoded frames that are kept for further readers: those of the last few batches."""

FrameForm = tuple[ForecastSlice, Encoding, bool]


class FrameEncoder:
    """Encodes the board's forecasts; the newest frames of each form are kept, up to `CACHE_BYTES`."""

    def __init__(self, service: Service) -> None:
        self._contract = service.contract
        self._board = service.state.board
        self._names = service.state.directory.names
        self._cache: OrderedDict[tuple[FrameForm, tuple[int, ...]], bytes] = OrderedDict()
        self._cached_bytes = 0

    def one(self, slot: int, part: ForecastSlice, encoding: Encoding) -> bytes | None:
        """The `forecast` frame of a slot; none where its server was forgotten."""
        return self._cached((slot,), (part, encoding, False), lambda: self._one(slot, part, encoding))

    def many(self, slots: Sequence[int], part: ForecastSlice, encoding: Encoding) -> bytes | None:
        """One `forecasts` frame of several slots; none where all their servers were forgotten."""
        return self._cached(slots, (part, encoding, True), lambda: self._many(slots, part, encoding))

    def message(self, slot: int, part: ForecastSlice, encoding: Encoding) -> dict[str, Any] | None:
        """The `forecast` message of a slot, not encoded yet."""
        forecast, name = self._board.get_forecast(slot), self._names[slot]
        if forecast is None or name is None:
            return None
        return {
            "type": "forecast",
            "server": name,
            "origin": self._contract.to_origin(forecast.step),
            "step_seconds": self._contract.step_seconds,
            "model": forecast.model,
            **self._axes(part),
            "values": self._values(part.cut(forecast.values), encoding),
            "context": forecast.context,
        }

    def _axes(self, part: ForecastSlice) -> dict[str, Any]:
        contract = self._contract
        axes: dict[str, Any] = {
            "targets": [contract.targets[place] for place in part.targets],
            "quantiles": [contract.quantiles[place] for place in part.quantiles],
        }
        if part.every > 1:
            axes["every"] = part.every
        return axes

    def _values(self, values: np.ndarray[Any, Any], encoding: Encoding) -> Any:
        return make_wire_tensor(values) if encoding is Encoding.MSGPACK else values

    def _one(self, slot: int, part: ForecastSlice, encoding: Encoding) -> bytes | None:
        message = self.message(slot, part, encoding)
        return None if message is None else encode(message, encoding)

    def _many(self, slots: Sequence[int], part: ForecastSlice, encoding: Encoding) -> bytes | None:
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
            # One name where one version made them all, which is all but the moment of a change.
            "model": models[0] if len(set(models)) == 1 else models,
            **self._axes(part),
            "values": self._values(part.cut(self._board.read_values(posted)), encoding),
        }
        return encode(message, encoding)

    def _cached(self, slots: Sequence[int], form: FrameForm, make: Callable[[], bytes | None]) -> bytes | None:
        # A serial names one forecast for ever, so nothing in the cache is ever out of date.
        key = (form, tuple(self._board.get_serial(slot) for slot in slots))
        frame = self._cache.get(key)
        if frame is None:
            frame = make()
            if frame is not None:
                self._keep(key, frame)
        return frame

    def _keep(self, key: tuple[FrameForm, tuple[int, ...]], frame: bytes) -> None:
        self._cache[key] = frame
        self._cached_bytes += len(frame)
        while self._cached_bytes > CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= len(oldest)
