"""The frames of the wire contract: samples that this client sends, acks and forecasts that it receives.

Written from the contract; shares no code with the daemon.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamd.tools.fleets.fleet import Fleet, FleetValues, Ints
from streamd.tools.loadtest.plan import RowBatch

JSON_DIGITS = 6
"""Decimals of a JSON number: float32 has about seven digits, and real agents send short numbers."""

CACHED_LISTS = 2**14
"""Encoded lists of servers that are cached: of 300,000 servers in frames of 100 rows, all of them."""


class ClientEncoding(StrEnum):
    """The encoding of frames and bodies, in both directions."""

    JSON = "json"
    MSGPACK = "msgpack"

    @property
    def content_type(self) -> str:
        """The content type of an HTTP body."""
        return f"application/{self.value}"


class ClientForm(StrEnum):
    """The form of the samples in a frame: each on its own, or many servers in columns."""

    SAMPLES = "samples"
    COLUMNS = "columns"


class RejectedSample(msgspec.Struct):
    """A sample of a frame that the daemon rejected."""

    index: int
    code: str
    message: str = ""


class IngestReply(msgspec.Struct):
    """An ack (WebSocket and HTTP) or an error frame (`code` set)."""

    type: str = "ack"
    id: int | str | None = None
    accepted: int = 0
    rejected: int = 0
    errors: list[RejectedSample] = []
    code: str | None = None
    message: str = ""
    retry_after: float | None = None


class ClientTensor(msgspec.Struct):
    """An array in a MessagePack frame."""

    shape: list[int]
    dtype: str
    data: memoryview
    """Little-endian bytes."""

    def view_array(self) -> NDArray[Any]:
        """Return the values without a copy; valid as long as the frame."""
        return np.frombuffer(self.data, dtype=np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)


class ForecastFrame(msgspec.Struct):
    """Any frame that a subscriber can receive: one type decodes all of them."""

    type: str
    """`forecast`, `forecasts` (a batch), `lagged`, `subscribed` or `error`."""
    server: str = ""
    origin: float = 0.0
    context: int = 0
    servers: list[str] = []
    origins: ClientTensor | list[float] = []
    contexts: ClientTensor | list[int] = []
    values: ClientTensor | list[Any] | None = None
    unknown: list[Any] = []
    """The names of the targets that have no values; in a batch a list of names for each forecast."""
    step_seconds: float = 0.0
    model: str | list[str] = ""
    targets: list[str] = []
    quantiles: list[float] = []
    dropped: int = 0
    code: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEncoder:
    """The encoder of batches into frames of one form and encoding."""

    fleet: Fleet
    step_seconds: int
    form: ClientForm
    encoding: ClientEncoding
    has_ids: bool = True
    """Whether a frame has an id: the acks of a WebSocket name their frame; an HTTP body needs no id."""
    _encoded_names: dict[bytes, msgspec.Raw] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The first `CACHED_LISTS` lists of servers, by their indexes."""

    def encode_batch(self, batch: RowBatch, identity: int) -> bytes:
        """Encode the rows of a batch as a frame or an HTTP body."""
        features = self._list_features(batch)
        values = self.fleet.read_values(batch.steps, batch.servers)
        values = values if batch.parts == 1 else values[:, features]
        names = [self.fleet.features[index] for index in features]
        build = self._build_columns if self.form is ClientForm.COLUMNS else self._build_samples
        frame = build(batch, names, values)
        if self.has_ids:
            frame["id"] = identity
        return ENCODERS[self.encoding](frame)

    def _list_features(self, batch: RowBatch) -> list[int]:
        return list(range(batch.part, len(self.fleet.features), batch.parts))

    def _build_columns(self, batch: RowBatch, names: list[str], values: FleetValues) -> dict[str, Any]:
        times = (self.fleet.first_step + batch.steps) * self.step_seconds
        columns = {
            "servers": self._encode_names(batch.servers),
            "time": int(times[0]) if (times == times[:1]).all() else times.tolist(),
            "features": names,
            "values": self._build_tensor(values),
        }
        return {"columns": columns}

    def _encode_names(self, servers: Ints) -> msgspec.Raw:
        """Return the encoded names of servers; a connection sends the same lists in each step."""
        key = servers.tobytes()
        encoded = self._encoded_names.get(key)
        if encoded is None:
            encoded = msgspec.Raw(ENCODERS[self.encoding]([self.fleet.servers[server] for server in servers]))
            if len(self._encoded_names) < CACHED_LISTS:
                self._encoded_names[key] = encoded
        return encoded

    def _build_tensor(self, values: FleetValues) -> Any:
        if self.encoding is ClientEncoding.MSGPACK:
            return {
                "shape": list(values.shape),
                "dtype": "float32",
                "data": np.ascontiguousarray(values).tobytes(),
            }
        # msgspec writes NaN as null, which means missing in the contract.
        return np.round(values.astype(np.float64), JSON_DIGITS).tolist()

    def _build_samples(self, batch: RowBatch, names: list[str], values: FleetValues) -> dict[str, Any]:
        # A value that differs from itself is NaN, so it is missing and left out.
        rounded = np.round(values.astype(np.float64), JSON_DIGITS).tolist()
        samples = [
            {
                "server": self.fleet.servers[server],
                "time": (self.fleet.first_step + int(step)) * self.step_seconds,
                "values": {name: value for name, value in zip(names, line, strict=True) if value == value},
            }
            for step, server, line in zip(batch.steps, batch.servers, rounded, strict=True)
        ]
        return {"samples": samples}


ENCODERS: dict[ClientEncoding, Callable[[Any], bytes]] = {
    ClientEncoding.JSON: msgspec.json.Encoder().encode,
    ClientEncoding.MSGPACK: msgspec.msgpack.Encoder().encode,
}
REPLY_DECODERS: dict[ClientEncoding, Callable[[Any], IngestReply]] = {
    ClientEncoding.JSON: msgspec.json.Decoder(IngestReply).decode,
    ClientEncoding.MSGPACK: msgspec.msgpack.Decoder(IngestReply).decode,
}
_forecasts_json = msgspec.json.Decoder(ForecastFrame)
_forecasts_msgpack = msgspec.msgpack.Decoder(ForecastFrame)


def decode_forecasts(data: bytes | str) -> ForecastFrame:
    """Decode a subscriber's frame: text is JSON, bytes are MessagePack. Raises `msgspec.MsgspecError`."""
    return _forecasts_json.decode(data) if isinstance(data, str) else _forecasts_msgpack.decode(data)
