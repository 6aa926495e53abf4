"""What a subscriber may ask for: the `subscribe` message, or the same as query parameters."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from streamd.core.contract import ModelContract
from streamd.core.errors import InvalidSelectionError, MalformedError
from streamd.core.selection import ForecastSlice, ServerGlobs, make_forecast_slice
from streamd.http.wire.codecs import Decoder, Encoding


class SubscribeMessage(msgspec.Struct, kw_only=True):
    """`servers` are names or globs; without targets or quantiles all are meant."""

    type: Literal["subscribe"]
    servers: list[str] = msgspec.field(default_factory=lambda: ["*"])
    targets: list[str] | None = None
    quantiles: list[float] | None = None
    every: int = 1
    batch: bool = False
    dtype: str = "float32"


_subscribe = Decoder(SubscribeMessage)


@dataclass(frozen=True)
class SubscriptionChoice:
    """A checked subscription."""

    globs: ServerGlobs
    part: ForecastSlice
    batch: bool
    encoding: Encoding

    def describe(self, contract: ModelContract, model: str) -> dict[str, Any]:
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


def parse_subscribe(contract: ModelContract, data: bytes | str, encoding: Encoding) -> SubscriptionChoice:
    """Read a `subscribe` frame; raises `MalformedError` or `InvalidSelectionError`."""
    return _choose(contract, _subscribe.decode(data, encoding), encoding)


LIST_PARAMETERS = ("servers", "targets", "quantiles")
SINGLE_PARAMETERS = ("every", "batch", "dtype", "format", "last_event_id")


def parse_query(contract: ModelContract, parameters: Iterable[tuple[str, str]]) -> SubscriptionChoice:
    """Read query parameters: `format` is json or msgpack; `servers`, `targets` and `quantiles` are lists.

    A list is separated by commas, or its parameter is repeated. `server` (which may be repeated too) is one server's
    name as it is: no comma separates in it, and it is no glob. Raises `InvalidSelectionError`.
    """
    query = _collect(parameters)
    given: dict[str, Any] = {name: query[name][0] for name in ("every", "batch", "dtype") if name in query}
    for name in LIST_PARAMETERS:
        if name in query:
            given[name] = _read_list(query[name], contract.targets if name == "targets" else ())
    names = query.get("server", [])
    if names:
        given.setdefault("servers", [])
    try:
        message = msgspec.convert({"type": "subscribe", **given}, SubscribeMessage, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidSelectionError(str(exc)) from exc
    formats = {"json": Encoding.JSON, "msgpack": Encoding.MSGPACK}
    form = query.get("format", ["json"])[0]
    encoding = formats.get(form)
    if encoding is None:
        raise InvalidSelectionError(f"format is {form!r}, expected json or msgpack")
    return _choose(contract, message, encoding, names)


def _collect(parameters: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return every parameter's values; refuse unknown parameters, and a repeated one that is no list."""
    query: dict[str, list[str]] = {}
    for name, value in parameters:
        query.setdefault(name, []).append(value)
    known = {"server", *LIST_PARAMETERS, *SINGLE_PARAMETERS}
    if unknown := set(query) - known:
        raise InvalidSelectionError(f"unknown parameters {sorted(unknown)}, expected some of {sorted(known)}")
    for name in SINGLE_PARAMETERS:
        if len(query.get(name, ())) > 1:
            raise InvalidSelectionError(f"{name} is given {len(query[name])} times, expected once")
    return query


def _read_list(values: Sequence[str], known: Sequence[str]) -> list[str]:
    """Separate values at their commas; one that is `known` as a whole stays whole."""
    return [part for value in values for part in ([value] if value in known else value.split(","))]


def _choose(
    contract: ModelContract, message: SubscribeMessage, encoding: Encoding, names: Sequence[str] = ()
) -> SubscriptionChoice:
    if not message.servers and not names:
        raise MalformedError("servers is empty, expected globs such as 'web-*', or no servers at all for every one")
    part = make_forecast_slice(contract, message.targets, message.quantiles, message.every, message.dtype)
    return SubscriptionChoice(ServerGlobs(message.servers, names), part, message.batch, encoding)
