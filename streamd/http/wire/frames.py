"""Forecasts as frames, encoded once for all readers that request the same form.

Reads the board and the names of servers; changes neither, and sends nothing.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from streamd.core.arrays import Numbers, Slots
from streamd.core.selection import ForecastSlice
from streamd.core.state.board import Forecast
from streamd.core.unknown_targets import TargetFlags, read_unknown
from streamd.http.wire.codecs import Encoding, encode
from streamd.http.wire.tensors import make_tensor_message, make_wire_tensor
from streamd.http.wire.unknown_fields import describe_unknown, list_values
from streamd.runtime.forecast_cutter import ForecastCutter
from streamd.runtime.service import Service

CACHE_BYTES = 16 * 2**20
"""Encoded frames that are cached for further readers: those of the last few batches."""

Frame = bytes | memoryview
"""A frame of bytes, which is never changed."""


class BatchFrame(NamedTuple):
    """A `forecasts` frame, `None` without a forecast, and the slots whose forecasts it has."""

    frame: Frame | None
    slots: Slots


FrameForm = tuple[ForecastSlice, Encoding, bool]
"""The part of the forecast, its encoding, and whether a frame holds several forecasts."""

FrameKey = tuple[FrameForm, int | bytes | tuple[int, int] | tuple[bytes, bytes]]
"""The form, and the serials of the forecasts; a serial is never used for another forecast.

In a cluster two servers may have the same serial, so the slots are a part of the key.
"""


class FrameEncoder:
    """An encoder of the forecasts on the board, with a cache of the newest frames of up to `CACHE_BYTES`."""

    def __init__(self, service: Service) -> None:
        self._contract = service.contract
        self._board = service.state.board
        self._names = service.state.directory.names
        self._fences = service.fences
        self._cutter = ForecastCutter()
        self._cache: OrderedDict[FrameKey, Frame] = OrderedDict()
        self._cached_bytes = 0

    def encode_forecast(self, slot: int, part: ForecastSlice, encoding: Encoding) -> Frame | None:
        """Return the `forecast` frame of a slot.

        `None` if its server was forgotten, or another process has posted a forecast that is published later.
        """
        serial = self._board.get_serial(slot)
        if not 0 < serial <= self._board.last_serial:
            return None
        key = (part, encoding, False), (serial if self._fences is None else (serial, slot))
        return self._find_or_encode(key, lambda: self._encode_one(slot, serial, part, encoding))

    def encode_forecasts(self, slots: Slots, part: ForecastSlice, encoding: Encoding) -> BatchFrame:
        """Return one `forecasts` frame of distinct slots, without those for which `encode_forecast` returns `None`."""
        serials = self._board.get_serials(slots)
        has_name = [self._names[slot] is not None for slot in slots.tolist()]
        is_sent = self._board.find_published(serials) & np.array(has_name, np.bool_)
        if not is_sent.all():
            slots, serials = slots[is_sent], serials[is_sent]
        words = serials.tobytes()
        key = (part, encoding, True), (words if self._fences is None else (words, slots.tobytes()))
        if (frame := self._find(key)) is not None:
            return BatchFrame(frame, slots)
        frame, sent = self._encode_many(slots, serials, part, encoding)
        if frame is not None and len(sent) == len(slots):
            frame = self._store(key, frame)
        return BatchFrame(frame, sent)

    def make_message(self, slot: int, part: ForecastSlice, encoding: Encoding) -> dict[str, Any] | None:
        """Return the `forecast` message of a slot, not encoded, or `None` if its server was forgotten."""
        while (forecast := self._board.get_forecast(slot)) is not None and (name := self._names[slot]) is not None:
            message = self._describe_forecast(slot, name, forecast, part, encoding)
            if self._board.get_serial(slot) == forecast.serial:
                return message
            # Another process posts a newer forecast: parts of the message may be of that one.
        return None

    def _describe_forecast(
        self, slot: int, name: str, forecast: Forecast, part: ForecastSlice, encoding: Encoding
    ) -> dict[str, Any]:
        """Return a `forecast` message, with a copy of the values."""
        axes, unknown = self._describe_axes(part), read_unknown(forecast.values)[list(part.targets)]
        values = part.cut(forecast.values)
        values = values.copy() if np.may_share_memory(values, forecast.values) else values
        return {
            "type": "forecast",
            "server": name,
            "origin": self._contract.to_origin(forecast.step),
            "step_seconds": self._contract.step_seconds,
            "model": forecast.model,
            **axes,
            **describe_unknown(axes["targets"], unknown),
            "values": make_wire_tensor(values) if encoding is Encoding.MSGPACK else list_values(values, unknown),
            "context": forecast.context,
            **({} if self._fences is None else {"fence": int(self._fences[slot])}),
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

    def _encode_one(self, slot: int, serial: int, part: ForecastSlice, encoding: Encoding) -> bytes | None:
        """Encode the forecast of this serial; `None` if another process replaces it meanwhile."""
        forecast, name = self._board.get_forecast(slot), self._names[slot]
        if forecast is None or name is None:
            return None
        frame = encode(self._describe_forecast(slot, name, forecast, part, encoding), encoding)
        return frame if forecast.serial == serial == self._board.get_serial(slot) else None

    def _encode_many(self, slots: Slots, serials: Numbers, part: ForecastSlice, encoding: Encoding) -> BatchFrame:
        """Encode the forecasts of these serials; one that another process replaces meanwhile is left out.

        The reader gets the newer one with a later frame: its mailbox has the slot again when that one is published.
        """
        while len(slots):
            frame = self._encode_posted(slots, part, encoding)
            is_same = self._board.get_serials(slots) == serials
            if is_same.all():
                return BatchFrame(frame, slots)
            slots, serials = slots[is_same], serials[is_same]
        return BatchFrame(None, slots)

    def _encode_posted(self, slots: Slots, part: ForecastSlice, encoding: Encoding) -> Frame:
        first_numbers = self._board.values[:, :, :1, :1]
        unknown = read_unknown(first_numbers[slots[:, None], part.targets])
        message = self._describe_forecasts(slots, part, unknown)
        shape = len(slots), *part.compute_shape(self._contract.horizon)
        if encoding is Encoding.MSGPACK:
            frame, values = make_tensor_message(message, "values", shape, part.dtype)
            self._cutter.cut_into(values, self._board.values, slots, part)
            return frame
        values = np.empty(shape, part.dtype)
        self._cutter.cut_into(values, self._board.values, slots, part)
        message["values"] = list_values(values, unknown)
        return encode(message, encoding)

    def _describe_forecasts(self, slots: Slots, part: ForecastSlice, unknown: TargetFlags) -> dict[str, Any]:
        """Return a `forecasts` message without its values; `unknown (n, targets)` are of the chosen targets."""
        steps, contexts, model = self._board.read_sources(slots)
        axes = self._describe_axes(part)
        return {
            "type": "forecasts",
            "servers": [self._names[slot] for slot in slots.tolist()],
            "origins": self._contract.to_origins(steps).tolist(),
            "contexts": contexts.tolist(),
            **({} if self._fences is None else {"fences": self._fences[slots].tolist()}),
            "step_seconds": self._contract.step_seconds,
            "model": model,
            **axes,
            **describe_unknown(axes["targets"], unknown),
        }

    def _find_or_encode(self, key: FrameKey, encode_frame: Callable[[], Frame | None]) -> Frame | None:
        frame = self._find(key)
        if frame is None and (frame := encode_frame()) is not None:
            frame = self._store(key, frame)
        return frame

    def _find(self, key: FrameKey) -> Frame | None:
        # A serial is never used for another forecast, so no frame in the cache is ever out of date.
        return self._cache.get(key)

    def _store(self, key: FrameKey, frame: Frame) -> Frame:
        if isinstance(frame, bytes):
            # The encoders leave a frame in a buffer of up to three times its size; to copy it takes 1 µs.
            frame = bytes(memoryview(frame))
        self._cache[key] = frame
        self._cached_bytes += len(frame)
        while self._cached_bytes > CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= len(oldest)
        return frame
