"""The messages of alert subscriptions: the choice that comes in, and the frames that go out.

Pure functions; `alert_sources.py` reads the alerts.
"""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from streamd.core.errors import InvalidSelectionError, MalformedError
from streamd.core.selection import ServerGlobs
from streamd.http.query_values import split_list
from streamd.http.wire.codecs import Decoder, Encoding
from streamd.runtime.alerts.alert_subscriptions import AlertChoice, AlertNews
from streamd.runtime.alerts.wire_form import describe_alert

SUBSCRIBE_ALERTS = "subscribe-alerts"

MAX_RULE_NAMES = 1_000
"""Rules in one choice, at most."""


class SubscribeAlertsMessage(msgspec.Struct, kw_only=True):
    """The `subscribe-alerts` message: `servers` are names or globs; `None` for rules means all."""

    type: Literal["subscribe-alerts"]
    servers: list[str] = msgspec.field(default_factory=lambda: ["*"])
    rules: list[str] | None = None


_subscribe_decoder = Decoder(SubscribeAlertsMessage)


def parse_alert_subscription(data: bytes | str, encoding: Encoding) -> AlertChoice:
    """Parse a `subscribe-alerts` frame; raises `MalformedError` or `InvalidSelectionError`."""
    message = _subscribe_decoder.decode(data, encoding)
    if not message.servers:
        raise MalformedError("servers is empty, expected globs such as 'web-*', or no servers at all for every server")
    if message.rules is not None and not message.rules:
        raise MalformedError("rules is empty, expected names of rules, or no rules at all for every rule")
    return make_alert_choice(message.servers, (), message.rules)


def choose_by_query(query: dict[str, list[str]]) -> AlertChoice:
    """Return the choice of the parameters `server`, which names one server as it is, `servers` and `rule`.

    Raises `InvalidSelectionError` for too many of them.
    """
    globs = split_list(query.get("servers", ()))
    names = query.get("server", [])
    rules = split_list(query.get("rule", ()))
    return make_alert_choice(globs or ([] if names else ["*"]), names, rules or None)


def make_alert_choice(globs: list[str], names: Iterable[str], rules: list[str] | None) -> AlertChoice:
    """Make a choice; raises `InvalidSelectionError` for too many servers or rules."""
    if rules is not None and len(rules) > MAX_RULE_NAMES:
        raise InvalidSelectionError(f"rules has {len(rules)} names, expected at most {MAX_RULE_NAMES}")
    return AlertChoice(ServerGlobs(globs, list(names)), None if rules is None else frozenset(rules))


def make_subscribe_message(choice: AlertChoice) -> dict[str, Any]:
    """Return the `subscribe-alerts` message of a choice that was made by globs."""
    return describe_choice(choice) | {"type": SUBSCRIBE_ALERTS}


def describe_choice(choice: AlertChoice) -> dict[str, Any]:
    """Return the `subscribed-alerts` message, which repeats the choice as it was understood."""
    return {
        "type": "subscribed-alerts",
        "servers": list(choice.globs.globs),
        "rules": None if choice.rules is None else sorted(choice.rules),
    }


def make_alerts_message(news: AlertNews, now: float) -> dict[str, Any]:
    """Return an `alerts` message: alerts in their newest state, and whether they belong to the snapshot."""
    return {
        "type": "alerts",
        "snapshot": news.is_snapshot,
        "more": news.has_more,
        "alerts": [describe_alert(alert, now) for alert in news.alerts],
    }
