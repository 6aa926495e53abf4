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
from streamd.http.query_values import collect_values, split_list
from streamd.http.resuming import parse_event_id
from streamd.http.wire.codecs import Decoder, Encoding

MAX_INTERVAL_SECONDS = 60.0
"""A reader of batches gets a frame at least so often, if there is news."""


class SubscribeMessage(msgspec.Struct, kw_only=True):
    """The `subscribe` message: `servers` are names or globs; `None` for targets or quantiles means all."""

    type: Literal["subscribe"]
    servers: list[str] = msgspec.field(default_factory=lambda: ["*"])
    targets: list[str] | None = None
    quantiles: list[float] | None = None
    every: int = 1
    batch: bool = False
    interval_seconds: float = 0.0
    dtype: str = "float32"
    ids: bool = False
    last_event_id: int | None = None


_subscribe_decoder = Decoder(SubscribeMessage)


@dataclass(frozen=True, kw_only=True)
class SubscriptionChoice:
    """A checked subscription."""

    globs: ServerGlobs
    part: ForecastSlice
    batch: bool
    interval_seconds: float
    """The wait after a frame, in which forecasts gather for the next one; only for batches."""
    encoding: Encoding
    has_ids: bool
    """Whether frames have the ids of events."""
    since: int | None
    """The id after which the reader continues; `None` if it begins with the next forecast."""

    def describe(self, contract: ModelContract, model: str) -> dict[str, Any]:
        """Return the `subscribed` message, which repeats the choice as it was understood."""
        interval = {"interval_seconds": self.interval_seconds} if self.interval_seconds else {}
        return {
            "type": "subscribed",
            "servers": list(self.globs.globs),
            "targets": [contract.targets[place] for place in self.part.targets],
            "quantiles": [contract.quantiles[place] for place in self.part.quantiles],
            "every": self.part.every,
            "batch": self.batch,
            **interval,
            "dtype": self.part.dtype,
            "step_seconds": contract.step_seconds,
            "model": model,
        }


def parse_subscribe(contract: ModelContract, data: bytes | str, encoding: Encoding) -> SubscriptionChoice:
    """Parse a `subscribe` frame; raises `MalformedError` or `InvalidSelectionError`."""
    return _make_choice(contract, _subscribe_decoder.decode(data, encoding), encoding)


LIST_PARAMETERS = ("servers", "targets", "quantiles")
"""Query parameters that are lists."""

SINGLE_PARAMETERS = ("every", "batch", "interval_seconds", "dtype", "format", "ids", "last_event_id")
"""Query parameters that may be given once."""


def parse_query(contract: ModelContract, parameters: Iterable[tuple[str, str]]) -> SubscriptionChoice:
    """Parse query parameters: `format` is json or msgpack; `servers`, `targets` and `quantiles` are lists.

    A list is separated by commas, or its parameter is repeated. `server` (which may be repeated too) is the name of
    one server as it is: a comma is part of the name, and it is not a glob. Raises `InvalidSelectionError`.
    """
    query = collect_values(parameters, {"server", *LIST_PARAMETERS, *SINGLE_PARAMETERS}, SINGLE_PARAMETERS)
    names_of_values = ("every", "batch", "interval_seconds", "dtype", "ids")
    given: dict[str, Any] = {name: query[name][0] for name in names_of_values if name in query}
    for name in LIST_PARAMETERS:
        if name in query:
            given[name] = split_list(query[name], contract.targets if name == "targets" else ())
    if last_id := query.get("last_event_id", [""])[0]:
        given["last_event_id"] = parse_event_id(last_id)
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


def _make_choice(
    contract: ModelContract, message: SubscribeMessage, encoding: Encoding, names: Sequence[str] = ()
) -> SubscriptionChoice:
    if not message.servers and not names:
        raise MalformedError("servers is empty, expected globs such as 'web-*', or no servers at all for every server")
    if not 0.0 <= message.interval_seconds <= MAX_INTERVAL_SECONDS:  # NaN too
        raise InvalidSelectionError(
            f"interval_seconds is {message.interval_seconds}, expected 0 to {MAX_INTERVAL_SECONDS:g}"
        )
    if message.interval_seconds and not message.batch:
        raise InvalidSelectionError("interval_seconds is given without batch, expected both or neither")
    part = make_forecast_slice(contract, message.targets, message.quantiles, message.every, message.dtype)
    return SubscriptionChoice(
        globs=ServerGlobs(message.servers, names),
        part=part,
        batch=message.batch,
        interval_seconds=message.interval_seconds,
        encoding=encoding,
        has_ids=message.ids,
        since=None if message.last_event_id is None else parse_event_id(str(message.last_event_id)),
    )
