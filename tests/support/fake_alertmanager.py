"""An Alertmanager on a real socket, with the answers of the real one (0.25), and a webhook that takes anything.

It notifies at once: of an alert that fires and was not notified as firing, and of one that ends and was.
"""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiohttp import web

RESOLVE_SECONDS = 300.0

Labels = tuple[tuple[str, str], ...]


@dataclass
class _Receiver:
    """What a receiver on a socket has in common with others."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    """The statuses of the next answers, before it answers as usual; 0 for a connection that ends."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of these answers."""
    max_body_bytes: int = 2**24
    """A larger body is answered with 413, as a proxy does it."""
    posts: list[Any] = field(default_factory=list)
    """The bodies that came, also those that were refused."""
    authorizations: set[str | None] = field(default_factory=set)
    _has_news: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_until(self, test: Callable[[], bool]) -> None:
        """Wait until something that came makes the test true."""
        async with asyncio.timeout(20):
            while not test():
                self._has_news.clear()
                await self._has_news.wait()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.authorizations.add(request.headers.get("Authorization"))
        body = await request.read()
        self.posts.append(json.loads(body))
        try:
            if len(body) > self.max_body_bytes:
                return web.Response(status=413)
            if not self.statuses:
                return self.answer(request, json.loads(body))
            status = self.statuses.pop(0)
            if status == 0 and request.transport is not None:
                request.transport.abort()
            return web.Response(status=status or 500, headers=self.headers, text="a test")
        finally:
            self._has_news.set()

    def answer(self, request: web.Request, body: Any) -> web.Response:
        raise NotImplementedError


@dataclass
class FakeWebhook(_Receiver):
    """A webhook that takes everything."""

    def answer(self, request: web.Request, body: Any) -> web.Response:
        return web.Response(status=204)

    @property
    def notifications(self) -> list[tuple[str, str, str]]:
        """The state, the rule and the server of each alert that came, in order."""
        return [(each["state"], each["rule"], each["server"]) for post in self.posts for each in post["alerts"]]


@dataclass
class FakeAlertmanager(_Receiver):
    """An Alertmanager; `alerts` are those that it knows, by their labels."""

    alerts: dict[Labels, dict[str, Any]] = field(default_factory=dict)
    notifications: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """`firing` or `resolved` with the labels, in order."""
    _notified: set[Labels] = field(default_factory=set)

    def answer(self, request: web.Request, body: Any) -> web.Response:
        if request.content_type != "application/json":
            return web.json_response({"code": 415}, status=415)
        for alert in body:
            if "labels" not in alert:
                return web.json_response({"code": 602, "message": "labels in body is required"}, status=422)
            source = alert.get("generatorURL") or "/"
            if not source.startswith(("/", "http://", "https://")):
                return web.json_response({"code": 601, "message": "generatorURL must be of type uri"}, status=422)
        faults = [fault for fault in map(self._take, body) if fault]
        return web.json_response("; ".join(faults), status=400) if faults else web.Response(status=200)

    def _take(self, alert: dict[str, Any]) -> str:
        """Store an alert; returns the fault of one that is refused."""
        now = time.time()
        for names in (alert["labels"], alert.get("annotations", {})):
            for name, value in names.items():
                if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name):
                    return f'invalid label set: invalid name "{name}"'
                if not isinstance(value, str):
                    return f"{name} is no string"
        ends_at = _read_time(alert.get("endsAt"), now + RESOLVE_SECONDS)
        starts_at = _read_time(alert.get("startsAt"), min(now, ends_at))
        if ends_at < starts_at:
            return "start time must be before end time"
        key = tuple(sorted((name, value) for name, value in alert["labels"].items() if value))
        if ends_at > now:
            self._notify("firing", key)
        else:
            self._notify("resolved", key)
        self.alerts[key] = alert | {"ends": ends_at}
        return ""

    def _notify(self, state: str, key: Labels) -> None:
        if (key in self._notified) is (state == "firing"):
            return
        (self._notified.add if state == "firing" else self._notified.discard)(key)
        self.notifications.append((state, dict(key)))

    def restart(self) -> None:
        """Forget the alerts, as a restart does; what was notified is remembered."""
        self.alerts.clear()

    def count_notifications(self) -> Counter[tuple[str, str]]:
        """Return how often each server was notified in each state."""
        return Counter((state, labels["server"]) for state, labels in self.notifications)


@asynccontextmanager
async def run_receiver(receiver: FakeAlertmanager | FakeWebhook) -> AsyncIterator[str]:
    """Serve a receiver at a free port; its base URL is `receiver.url`, and the result."""
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver.url
    finally:
        await runner.cleanup()


def _read_time(shown: str | None, default: float) -> float:
    return default if shown is None else datetime.fromisoformat(shown).timestamp()
