"""The message that ends subscriptions on the WebSocket of the forecasts, and its answer.

Pure functions; `routes/forecasts.py` ends them.
"""

from typing import Any, Literal

import msgspec

from streamd.http.wire.codecs import Decoder, Encoding

UNSUBSCRIBE = "unsubscribe"

SubscriptionKind = Literal["forecasts", "alerts", "fleet"]

SUBSCRIPTION_KINDS: tuple[SubscriptionKind, ...] = ("forecasts", "alerts", "fleet")
"""The subscriptions of a WebSocket."""


class UnsubscribeMessage(msgspec.Struct, kw_only=True):
    """The `unsubscribe` message: the subscriptions to end, without `of` all of them."""

    type: Literal["unsubscribe"]
    of: list[SubscriptionKind] = msgspec.field(default_factory=lambda: list(SUBSCRIPTION_KINDS))


_decoder = Decoder(UnsubscribeMessage)


def parse_unsubscribe(data: bytes | str, encoding: Encoding) -> list[SubscriptionKind]:
    """Parse an `unsubscribe` frame to the subscriptions to end, each once; raises `MalformedError`."""
    of = _decoder.decode(data, encoding).of
    return [kind for kind in SUBSCRIPTION_KINDS if kind in of]


def describe_unsubscribed(kinds: list[SubscriptionKind]) -> dict[str, Any]:
    """Return the `unsubscribed` message, after which no frame of these subscriptions follows."""
    return {"type": "unsubscribed", "of": kinds}
