"""What a subscriber may ask for: the `subscribe` message, or the same as query parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from streamd.core.contract import ModelContract
from streamd.core.errors import InvalidSelectionError, MalformedError
from streamd.core.selection import Part, ServerGlobs, select
from streamd.transport.codecs import Decoder, Encoding


class Subscribe(msgspec.Struct, kw_only=True):
    """`servers` are globs; without targets or quantiles all are meant."""

    type: Literal["subscribe"]
    servers: list[str] = msgspec.field(default_factory=lambda: ["*"])
    targets: list[str] | None = None
    quantiles: list[float] | None = None
    every: int = 1
    batch: bool = False
    dtype: str = "float32"


_subscribe = Decoder(Subscribe)


@dataclass(frozen=True)
class Choice:
    """A checked subscription."""

    globs: ServerGlobs
    part: Part
    batch: bool
    encoding: Encoding

    def told(self, contract: ModelContract, model: str) -> dict[str, Any]:
        """The `subscribed` answer: what was understood."""
        return {
            "type": "subscribed",
            "servers": list(self.globs.globs),
            "targets": [contract.targets[place] for place in self.part.targets],
            "quantiles": [contract.quantiles[place] for place in self.part.quantiles],
            "every": self.part.every,
            "batch": self.batch,
            "dtype": self.part.dtype,
            "step_seconds": contract.step_seconds,
            "model": model,
        }


def read_message(contract: ModelContract, data: bytes | str, encoding: Encoding) -> Choice:
    """Read a `subscribe` frame; raises `MalformedError` or `InvalidSelectionError`."""
    return _choose(contract, _subscribe.decode(data, encoding), encoding)


def read_query(contract: ModelContract, query: Mapping[str, str]) -> Choice:
    """Read query parameters: lists are separated by commas, `format` is json or msgpack."""
    known = {"servers", "targets", "quantiles", "every", "batch", "dtype", "format", "last_event_id"}
    if unknown := set(query) - known:
        raise InvalidSelectionError(f"unknown parameters {sorted(unknown)}, expected some of {sorted(known)}")
    given: dict[str, Any] = {name: query[name] for name in ("every", "batch", "dtype") if name in query}
    for name in ("servers", "targets", "quantiles"):
        if name in query:
            given[name] = query[name].split(",")
    try:
        message = msgspec.convert({"type": "subscribe", **given}, Subscribe, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidSelectionError(str(exc)) from exc
    formats = {"json": Encoding.JSON, "msgpack": Encoding.MSGPACK}
    encoding = formats.get(query.get("format", "json"))
    if encoding is None:
        raise InvalidSelectionError(f"format is {query['format']!r}, expected json or msgpack")
    return _choose(contract, message, encoding)


def _choose(contract: ModelContract, message: Subscribe, encoding: Encoding) -> Choice:
    if not message.servers:
        raise MalformedError("servers is empty, expected globs such as 'web-*', or no servers at all for every one")
    part = select(contract, message.targets, message.quantiles, message.every, message.dtype)
    return Choice(ServerGlobs(message.servers), part, message.batch, encoding)
