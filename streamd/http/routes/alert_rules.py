"""The route `/v1/alerts/rules`: the rules that forecasts are judged by, as the daemon has understood them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from aiohttp import web

from streamd.core.access.glob_grants import list_shared
from streamd.core.access.scopes import Scope
from streamd.core.alerts.rules import AlertRule
from streamd.core.unknown_targets import read_unknown
from streamd.http.access.context import get_caller
from streamd.http.errors import reply
from streamd.http.names import read_server_name
from streamd.http.query_values import collect_values
from streamd.runtime.service import Service


class AlertRuleRoutes:
    """The handler for readers of rules."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_get("/v1/alerts/rules", self.list_rules)

    async def list_rules(self, request: web.Request) -> web.Response:
        """Return the rules that may be about servers of the caller, in their order; with `server`, those of it.

        Of a server, a rule says if its target is unknown in the newest forecast: then it has no state.
        """
        collect_values(request.query.items(), ("server",))
        server, caller = read_server_name(request), get_caller(request)
        monitor = self._service.alerts
        unknown = set() if server is None else self._find_unknown(server)
        shown = []
        for rule in () if monitor is None else monitor.rules:
            servers = list_shared(caller, Scope.READ, rule.servers.globs)
            if servers and (server is None or rule.servers.matches(server)):
                is_unknown = {"unknown": True} if rule.target_index in unknown else {}
                shown.append(describe_rule(rule, servers) | is_unknown)
        return reply(request, {"rules": shown})

    def _find_unknown(self, server: str) -> set[int]:
        """Return the targets that are unknown in the newest forecast of a server, by index."""
        state = self._service.state
        slot = state.directory.slots.get(server)
        forecast = None if slot is None else state.board.get_forecast(slot)
        return set() if forecast is None else set(np.flatnonzero(read_unknown(forecast.values)).tolist())


def describe_rule(rule: AlertRule, servers: Sequence[str]) -> dict[str, Any]:
    """Return a rule as an object of the wire, with some of its servers."""
    return {
        "rule": rule.name,
        "target": rule.target,
        "unit": rule.unit,
        "above" if rule.is_above else "below": rule.threshold,
        "quantile": rule.quantile,
        "within_seconds": rule.within_seconds,
        "for": rule.consecutive,
        "hysteresis": rule.hysteresis,
        "min_rows": rule.min_rows,
        "servers": list(servers),
        "severity": rule.severity,
        "labels": dict(rule.labels),
        "annotations": dict(rule.annotations),
    }
