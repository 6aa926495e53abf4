"""The choice of a subscriber: a `subscribe` message, or the same as query parameters, checked against the contract.

Pure functions; `routes/forecasts.py` subscribes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from streamd.core.contract import ModelContract
from streamd.core.errors import InvalidSelectionError, MalformedError
from streamd.core.selection import ForecastSlice, ServerGlobs, make_forecast_slice
from streamd.http.wire.codecs import Decoder, Encoding


class SubscribeMessage(msgspec.Struct, kw_only=True):
    """The `subscribe` message: `servers` are names or globs; `None` for targets or quantiles means all."""

    type: Literal["subscribe"]
    servers: list[str] = msgspec.field(default_factory=lambda: ["*"])
    targets: list[str] | None = None
    quantiles: list[float] | None = None
    every: int = 1
    batch: bool = False
    dtype: str = "float32"


_subscribe_decoder = Decoder(SubscribeMessage)


@dataclass(frozen=True)
class SubscriptionChoice:
    """A checked subscription."""

    globs: ServerGlobs
    part: ForecastSlice
    batch: bool
    encoding: Encoding

    def describe(self, contract: ModelContract, model: str) -> dict[str, Any]:
        """Return the `subscribed` message, which repeats the choice as it was understood."""
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
    """Parse a `subscribe` frame; raises `MalformedError` or `InvalidSelectionError`."""
    return _make_choice(contract, _subscribe_decoder.decode(data, encoding), encoding)


LIST_PARAMETERS = ("servers", "targets", "quantiles")
"""Query parameters that are lists."""

SINGLE_PARAMETERS = ("every", "batch", "dtype", "format", "last_event_id")
"""Query parameters that may be given once."""

MAX_SHOWN_PARAMETERS, MAX_SHOWN_CHARACTERS = 8, 64
"""Of unknown parameters, what an error repeats: a caller chooses how many there are, and how long."""


def parse_query(contract: ModelContract, parameters: Iterable[tuple[str, str]]) -> SubscriptionChoice:
    """Parse query parameters: `format` is json or msgpack; `servers`, `targets` and `quantiles` are lists.

    A list is separated by commas, or its parameter is repeated. `server` (which may be repeated too) is the name of
    one server as it is: a comma is part of the name, and it is not a glob. Raises `InvalidSelectionError`.
    """
    query = _collect_values(parameters)
    given: dict[str, Any] = {name: query[name][0] for name in ("every", "batch", "dtype") if name in query}
    for name in LIST_PARAMETERS:
        if name in query:
            given[name] = _split_list(query[name], contract.targets if name == "targets" else ())
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
        raise InvalidSelectionError(f"format is {form!r:.80}, expected json or msgpack")
    return _make_choice(contract, message, encoding, names)


def _collect_values(parameters: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the values of each parameter; raises `InvalidSelectionError` for unknown and wrongly repeated ones."""
    query: dict[str, list[str]] = {}
    for name, value in parameters:
        query.setdefault(name, []).append(value)
    known = {"server", *LIST_PARAMETERS, *SINGLE_PARAMETERS}
    if unknown := set(query) - known:
        shown = [name[:MAX_SHOWN_CHARACTERS] for name in sorted(unknown)[:MAX_SHOWN_PARAMETERS]]
        raise InvalidSelectionError(f"unknown parameters {shown}, expected some of {sorted(known)}")
    for name in SINGLE_PARAMETERS:
        if len(query.get(name, ())) > 1:
            raise InvalidSelectionError(f"{name} is given {len(query[name])} times, expected once")
    return query


def _split_list(values: Sequence[str], known: Sequence[str]) -> list[str]:
    """Split values at their commas; a value that is in `known` stays whole."""
    return [part for value in values for part in ([value] if value in known else value.split(","))]


def _make_choice(
    contract: ModelContract, message: SubscribeMessage, encoding: Encoding, names: Sequence[str] = ()
) -> SubscriptionChoice:
    if not message.servers and not names:
        raise MalformedError("servers is empty, expected globs such as 'web-*', or no servers at all for every server")
    part = make_forecast_slice(contract, message.targets, message.quantiles, message.every, message.dtype)
    return SubscriptionChoice(ServerGlobs(message.servers, names), part, message.batch, encoding)
