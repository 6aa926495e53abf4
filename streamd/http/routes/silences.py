"""The routes below `/v1/silences`: the silences of alerts that hold, begun and ended by administrators.

Checks the bodies and whose servers a silence chooses; the monitor keeps the silences.
"""

import secrets
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web

from streamd.core.access.caller import Caller
from streamd.core.access.glob_grants import find_uncovered, list_shared
from streamd.core.access.scopes import Scope
from streamd.core.alerts.silences import MAX_SILENCED_SERVERS, Silence, check_silence
from streamd.core.errors import ForbiddenError, InvalidInputError, UnavailableError, UnknownSilenceError
from streamd.core.state.samples import Time
from streamd.http.access.context import get_caller, name_caller, set_target
from streamd.http.errors import reply
from streamd.http.names import check_utf8
from streamd.http.query_values import collect_values
from streamd.http.requests import BodyReader
from streamd.http.wire.codecs import Decoder, parse_content_type
from streamd.runtime.alerts.monitor import AlertMonitor
from streamd.runtime.loop_turns import LoopTurns
from streamd.runtime.service import Service

ID_BYTES = 8

LISTING_SECONDS = 0.005
"""The time that listing silences for a caller takes in one turn of the event loop."""


class SilenceRequestBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A silence that is to begin now, with either `seconds` or `until`; without `rules` it is about every rule."""

    servers: list[str]
    rules: list[str] | None = None
    seconds: float | None = None
    until: Time | None = None
    why: str
    who: str = ""


_decoder = Decoder(SilenceRequestBody)


class SilenceRoutes:
    """Handlers of silences."""

    def __init__(self, service: Service, bodies: BodyReader) -> None:
        self._service = service
        self._bodies = bodies
        self._turns = LoopTurns()

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/silences", self.list_silences)
        app.router.add_post("/v1/silences", self.begin_silence)
        app.router.add_delete("/v1/silences/{id}", self.end_silence)

    async def list_silences(self, request: web.Request) -> web.Response:
        """Return the silences that hold, with those of their servers that the caller may read."""
        check_utf8(request)
        collect_values(request.query.items(), ())
        caller, now = get_caller(request), time.time()
        shown = []
        until = time.monotonic() + LISTING_SECONDS
        for silence in self._require_monitor().silences:
            servers = list_shared(caller, Scope.READ, silence.servers)
            if servers and silence.ends_at > now:
                shown.append(describe_silence(silence, servers))
            if time.monotonic() >= until:
                await self._turns.wait()
                until = time.monotonic() + LISTING_SECONDS
        return reply(request, {"silences": shown})

    async def begin_silence(self, request: web.Request) -> web.Response:
        """Let a silence begin; answers when it is on the disk."""
        encoding = parse_content_type(request.headers.get("Content-Type", ""))
        async with self._bodies.read_body(request) as body:
            wanted: SilenceRequestBody = _decoder.decode(body, encoding)
        monitor = self._require_monitor()
        silence = _make_silence(wanted, time.time(), name_caller(request))
        set_target(request, " ".join(silence.servers[:MAX_SILENCED_SERVERS]))
        caller = get_caller(request)
        # A refusal names the rules, and those of others are not for this caller.
        rules = [rule.name for rule in monitor.rules if list_shared(caller, Scope.ADMIN, rule.servers.globs)]
        check_silence(silence, rules)
        _require_granted(caller, silence)
        await monitor.add_silence(silence)
        return reply(request, {"silence": describe_silence(silence, silence.servers)}, 201)

    async def end_silence(self, request: web.Request) -> web.Response:
        """End a silence before its time; answers when it is gone from the disk."""
        check_utf8(request)
        silence_id = request.match_info["id"]
        set_target(request, silence_id)
        monitor = self._require_monitor()
        silence = next((each for each in monitor.silences if each.id == silence_id), None)
        if silence is None:
            raise UnknownSilenceError(f"no silence {silence_id[:80]!r} holds")
        _require_granted(get_caller(request), silence)
        await monitor.end_silence(silence_id)
        return web.Response(status=204)

    def _require_monitor(self) -> AlertMonitor:
        monitor = self._service.alerts
        if monitor is None or not self._service.alert_subscriptions.are_restored:
            # An empty list would say that nothing is silenced.
            raise UnavailableError("the daemon is starting, and has not read its silences yet")
        return monitor


def describe_silence(silence: Silence, servers: Sequence[str]) -> dict[str, Any]:
    """Return a silence as an object of the wire, with some of its servers."""
    return {
        "id": silence.id,
        "servers": list(servers),
        "rules": None if silence.rules is None else list(silence.rules),
        "starts_at": silence.starts_at,
        "ends_at": silence.ends_at,
        "who": silence.who,
        "why": silence.why,
    }


def _make_silence(wanted: SilenceRequestBody, now: float, caller: str) -> Silence:
    return Silence(
        id=secrets.token_hex(ID_BYTES),
        servers=tuple(dict.fromkeys(wanted.servers)),
        rules=None if wanted.rules is None else tuple(dict.fromkeys(wanted.rules)),
        starts_at=now,
        ends_at=_find_end(wanted, now),
        who=wanted.who or caller,
        why=wanted.why,
    )


def _find_end(wanted: SilenceRequestBody, now: float) -> float:
    if wanted.seconds is not None and wanted.until is None:
        return now + wanted.seconds
    if wanted.until is not None and wanted.seconds is None:
        return wanted.until.timestamp() if isinstance(wanted.until, datetime) else wanted.until
    given = "neither seconds nor until is" if wanted.seconds is None else "seconds and until are both"
    raise InvalidInputError(f"{given} given, expected one of them")


def _require_granted(caller: Caller, silence: Silence) -> None:
    """Raise `ForbiddenError` unless a caller may silence all servers that a silence may choose."""
    if find_uncovered(caller, Scope.ADMIN, silence.servers) is not None:
        raise ForbiddenError(
            f"the token {caller.name!r} has the scope {Scope.ADMIN}, but not for all servers of this silence: "
            "expected names, or globs that are part of those of the token"
        )
