"""The routes `/v1/alerts` and `/v1/alerts/stream`: the alerts that are active, and those that were resolved lately.

Reads the monitor; on the WebSocket of the forecasts, `http/alert_sockets.py` sends alerts too.
"""

import asyncio
import base64
import binascii
import contextlib
import time
from collections.abc import Callable, Iterable
from heapq import nsmallest

import msgspec
from aiohttp import web

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import InvalidInputError, UnavailableError
from streamd.http.access.context import get_caller
from streamd.http.alert_frames import choose_by_query, describe_choice, make_alerts_message
from streamd.http.alert_sources import MAX_ALERTS
from streamd.http.callers import cancel_if_caller_leaves
from streamd.http.errors import reply
from streamd.http.names import check_utf8
from streamd.http.query_values import collect_values, split_list
from streamd.http.sockets import KEEP_ALIVE_SECONDS, Sockets
from streamd.http.wire.codecs import Encoding, encode
from streamd.http.wire.event_stream import KEEP_ALIVE_COMMENT, make_event
from streamd.runtime.alerts.alert import Alert, AlertState
from streamd.runtime.alerts.alert_subscriptions import AlertChoice, AlertSubscription
from streamd.runtime.alerts.wire_form import describe_alert
from streamd.runtime.loop_turns import LoopTurns
from streamd.runtime.service import Service

DEFAULT_PAGE_ALERTS = 100
MAX_PAGE_ALERTS = 1_000
"""Alerts on one page."""

DEFAULT_STATES = frozenset({AlertState.FIRING, AlertState.PENDING})

CHOOSING_SECONDS = 0.005
"""The time that choosing the alerts of a page takes in one turn of the event loop."""

_CHOICE_PARAMETERS = frozenset({"server", "servers", "rule"})
_PAGE_PARAMETERS = frozenset({"state", "limit", "cursor"})

PagePosition = tuple[str, str, float]
"""The place of an alert in the order of the pages: its server, its rule, and when it fired."""


class AlertRoutes:
    """Handlers for readers of alerts."""

    def __init__(self, service: Service, sockets: Sockets) -> None:
        self._service = service
        self._sockets = sockets
        self._turns = LoopTurns()

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/alerts", self.list_alerts)
        app.router.add_get("/v1/alerts/stream", self.open_stream, allow_head=False)

    async def list_alerts(self, request: web.Request) -> web.Response:
        """Return a page of the alerts that the caller may read, by server and rule."""
        check_utf8(request)
        query = collect_values(request.query.items(), _CHOICE_PARAMETERS | _PAGE_PARAMETERS)
        for name in ("limit", "cursor"):
            if (count := len(query.get(name, []))) > 1:
                raise InvalidInputError(f"{name} is given {count} times, expected once")
        choice, states = choose_by_query(query), _parse_states(query.get("state", []))
        limit, after = _parse_limit(query.get("limit", [])), _parse_cursor(query.get("cursor", []))
        includes = _make_test(choice, states, get_caller(request))
        found = await self._find_page(includes, after, limit + 1)
        page, now = found[:limit], time.time()
        has_more = len(found) > limit
        return reply(
            request,
            {
                "alerts": [describe_alert(alert, now) for alert in page],
                "next": _make_cursor(locate_alert(page[-1])) if has_more else None,
            },
        )

    async def _find_page(
        self, includes: Callable[[Alert], bool], after: PagePosition | None, count: int
    ) -> list[Alert]:
        """Return the first `count` alerts after a position; the loop gets its turn in between."""
        found: list[Alert] = []
        until = time.monotonic() + CHOOSING_SECONDS
        for alert in self._list_all():
            if (after is None or locate_alert(alert) > after) and includes(alert):
                found.append(alert)
            if time.monotonic() >= until:
                found = nsmallest(count, found, key=locate_alert)
                await self._turns.wait()
                until = time.monotonic() + CHOOSING_SECONDS
        return nsmallest(count, found, key=locate_alert)

    def _list_all(self) -> Iterable[Alert]:
        monitor = self._service.alerts
        if not self._service.alert_subscriptions.are_restored:
            # An empty list would say that nothing fires.
            raise UnavailableError("the daemon is starting, and has not read its alerts yet")
        return [] if monitor is None else [*monitor.active.values(), *monitor.resolved]

    async def open_stream(self, request: web.Request) -> web.StreamResponse:
        """Push alerts as server-sent events: first those that are active, then each change."""
        check_utf8(request)
        choice = choose_by_query(collect_values(request.query.items(), _CHOICE_PARAMETERS))
        subscriptions = self._service.alert_subscriptions
        async with self._sockets.open_event_stream(request) as response:
            subscription = subscriptions.subscribe(choice, get_caller(request))
            try:
                # A handler that waits would otherwise notice only when it writes the next event.
                with cancel_if_caller_leaves(request):
                    await self._sockets.send_event(response, _make_message_event(describe_choice(choice)))
                    await self._push_events(response, subscription)
            finally:
                subscriptions.unsubscribe(subscription)
        return response

    async def _push_events(self, response: web.StreamResponse, subscription: AlertSubscription) -> None:
        sent_at = time.monotonic()
        while not subscription.closed:
            event = KEEP_ALIVE_COMMENT
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(sent_at + KEEP_ALIVE_SECONDS - time.monotonic()):
                    await subscription.wait()
                news = await subscription.read(MAX_ALERTS)
                if news is None:
                    continue  # changes of other servers, which must not delay the comment
                event = _make_message_event(make_alerts_message(news, time.time()))
            await self._sockets.send_event(response, event)
            sent_at = time.monotonic()


def locate_alert(alert: Alert) -> PagePosition:
    """Return the place of an alert in the order of the pages; no two alerts have the same."""
    return alert.server, alert.rule, -1.0 if alert.starts_at is None else alert.starts_at


def _make_test(choice: AlertChoice, states: frozenset[AlertState], caller: Caller) -> Callable[[Alert], bool]:
    def includes(alert: Alert) -> bool:
        return (
            alert.state in states
            and (choice.rules is None or alert.rule in choice.rules)
            and caller.may(Scope.READ, alert.server)
            and choice.globs.matches(alert.server)
        )

    return includes


def _make_message_event(message: dict[str, object]) -> bytes:
    return make_event(str(message["type"]), encode(message, Encoding.JSON))


def _parse_states(given: list[str]) -> frozenset[AlertState]:
    names = split_list(given)
    known = [state.value for state in AlertState]
    for name in names:
        if name not in known:
            raise InvalidInputError(f"state has {name[:32]!r}, expected some of {', '.join(known)}")
    return frozenset(map(AlertState, names)) or DEFAULT_STATES


def _parse_limit(given: list[str]) -> int:
    if not given:
        return DEFAULT_PAGE_ALERTS
    value = given[0]
    if not (value.isascii() and value.isdigit() and len(value) < 9 and 1 <= int(value) <= MAX_PAGE_ALERTS):
        raise InvalidInputError(f"limit is {value[:32]!r}, expected 1 to {MAX_PAGE_ALERTS}")
    return int(value)


def _make_cursor(position: PagePosition) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def _parse_cursor(given: list[str]) -> PagePosition | None:
    if not given or not given[0]:
        return None
    try:
        data = base64.b64decode(f"{given[0]}{'=' * (-len(given[0]) % 4)}".encode(), b"-_", validate=True)
        position: PagePosition = msgspec.json.decode(data, type=PagePosition)
    except (binascii.Error, msgspec.DecodeError, ValueError) as exc:
        raise InvalidInputError(f"cursor is {given[0][:32]!r}, expected the `next` of a previous page") from exc
    return position
