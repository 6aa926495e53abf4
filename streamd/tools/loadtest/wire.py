"""The contract's frames as this client writes and reads them: samples out, acks and forecasts in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamd.tools.fleets.fleet import Fleet, FleetValues
from streamd.tools.loadtest.plan import RowBatch

# Digits that JSON numbers keep: float32 has about seven, and shorter texts are what agents really send.
JSON_DIGITS = 6


class ClientEncoding(StrEnum):
    """Of frames and bodies, both ways."""

    JSON = "json"
    MSGPACK = "msgpack"

    @property
    def content_type(self) -> str:
        """For HTTP bodies."""
        return f"application/{self.value}"


class ClientForm(StrEnum):
    """Of the samples in a frame: each on its own, or many servers in columns."""

    SAMPLES = "samples"
    COLUMNS = "columns"


class SampleError(msgspec.Struct):
    """One rejected sample of a frame."""

    index: int
    code: str
    message: str = ""


class Reply(msgspec.Struct):
    """An ack (WebSocket and HTTP) or an error frame (``code`` set)."""

    type: str = "ack"
    id: int | str | None = None
    accepted: int = 0
    rejected: int = 0
    errors: list[SampleError] = []
    code: str | None = None
    message: str = ""
    retry_after: float | None = None


class ClientTensor(msgspec.Struct):
    """``data``: little-endian bytes of ``shape`` and ``dtype``."""

    shape: list[int]
    dtype: str
    data: memoryview

    def array(self) -> NDArray[Any]:
        """The values, without copying them."""
        return np.frombuffer(self.data, dtype=np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)


class Forecasts(msgspec.Struct):
    """Any frame that a subscriber can get; ``type`` says which: forecast, forecasts (a batch), lagged, ..."""

    type: str
    server: str = ""
    origin: float = 0.0
    context: int = 0
    servers: list[str] = []
    origins: ClientTensor | list[float] = []
    contexts: ClientTensor | list[int] = []
    values: ClientTensor | list[Any] | None = None
    step_seconds: float = 0.0
    model: str | list[str] = ""
    targets: list[str] = []
    quantiles: list[float] = []
    dropped: int = 0
    code: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class SampleEncoder:
    """Turns batches into frames of one form and encoding."""

    fleet: Fleet
    step_seconds: int
    form: ClientForm
    encoding: ClientEncoding
    with_ids: bool = True  # a WebSocket's acks name their frame; an HTTP body needs no name

    def encode(self, batch: RowBatch, identity: int) -> bytes:
        """A frame's or body's bytes."""
        features = self._features(batch)
        values = self.fleet.values(batch.steps, batch.servers)[:, features]
        names = [self.fleet.features[index] for index in features]
        build = self._columns if self.form is ClientForm.COLUMNS else self._samples
        frame = build(batch, names, values)
        if self.with_ids:
            frame["id"] = identity
        return ENCODERS[self.encoding](frame)

    def _features(self, batch: RowBatch) -> list[int]:
        return list(range(batch.part, len(self.fleet.features), batch.parts))

    def _columns(self, batch: RowBatch, names: list[str], values: FleetValues) -> dict[str, Any]:
        times = [(self.fleet.first_step + int(step)) * self.step_seconds for step in batch.steps]
        same = len(set(times)) == 1
        columns = {
            "servers": [self.fleet.servers[server] for server in batch.servers],
            "time": times[0] if same else times,
            "features": names,
            "values": self._tensor(values),
        }
        return {"columns": columns}

    def _tensor(self, values: FleetValues) -> Any:
        if self.encoding is ClientEncoding.MSGPACK:
            return {
                "shape": list(values.shape),
                "dtype": "float32",
                "data": np.ascontiguousarray(values).tobytes(),
            }
        # msgspec writes NaN as null, which is the contract's word for missing.
        return np.round(values.astype(np.float64), JSON_DIGITS).tolist()

    def _samples(self, batch: RowBatch, names: list[str], values: FleetValues) -> dict[str, Any]:
        # A value that differs from itself is NaN: missing, so it is left out.
        rounded = np.round(values.astype(np.float64), JSON_DIGITS).tolist()
        samples = [
            {
                "server": self.fleet.servers[server],
                "time": (self.fleet.first_step + int(step)) * self.step_seconds,
                "values": {name: value for name, value in zip(names, line, strict=True) if value == value},  # not NaN
            }
            for step, server, line in zip(batch.steps, batch.servers, rounded, strict=True)
        ]
        return {"samples": samples}


ENCODERS: dict[ClientEncoding, Callable[[Any], bytes]] = {
    ClientEncoding.JSON: msgspec.json.Encoder().encode,
    ClientEncoding.MSGPACK: msgspec.msgpack.Encoder().encode,
}
decode_reply: dict[ClientEncoding, Callable[[Any], Reply]] = {
    ClientEncoding.JSON: msgspec.json.Decoder(Reply).decode,
    ClientEncoding.MSGPACK: msgspec.msgpack.Decoder(Reply).decode,
}
_forecasts_json = msgspec.json.Decoder(Forecasts)
_forecasts_msgpack = msgspec.msgpack.Decoder(Forecasts)


def decode_forecasts(data: bytes | str) -> Forecasts:
    """A subscriber's frame: text is JSON, bytes are MessagePack. Raises msgspec.MsgspecError."""
    return _forecasts_json.decode(data) if isinstance(data, str) else _forecasts_msgpack.decode(data)
