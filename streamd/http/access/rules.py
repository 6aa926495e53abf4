"""The rules of the routes: the right that a caller of each route needs, in one table.

An application with a route without a rule, or a rule without a route, cannot be built, so no route is open by mistake.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import hdrs, web

from streamd.core.access.scopes import Scope
from streamd.core.errors import StreamdError
from streamd.http.access.upgrades import is_upgrade
from streamd.http.protocols.commit_answers import answer_refusal
from streamd.http.protocols.influx import answer_influx_refusal
from streamd.http.protocols.netdata import answer_put_refusal
from streamd.http.protocols.otlp import answer_otlp_refusal
from streamd.http.protocols.prometheus import answer_remote_write_refusal

Refuse = Callable[[web.Request, StreamdError], web.Response]
"""Answers a refused request in the form that the senders of a foreign protocol expect."""


@dataclass(frozen=True, kw_only=True)
class RouteRule:
    """The right that a route needs."""

    scope: Scope | None
    """The scope that the caller needs; `None` if the route serves every caller."""

    upgrade_scope: Scope | None = None
    """The scope that a WebSocket needs, if the route serves both, and the scopes differ."""

    serves_socket: bool = False
    """Whether the route serves a WebSocket and nothing else."""

    names_server: bool = False
    """Whether the path, or the parameter `server`, may name a server; the scope must be granted for it."""

    for_all_servers: bool = False
    """Whether the scope must be granted for all servers, because the call affects all of them."""

    action: str = ""
    """The name of the action in the audit log; empty if the route changes nothing that an operator must trace."""

    refuse: Refuse | None = None
    """The answer to a refused request, if it does not have the usual form."""

    def choose_scope(self, request: web.BaseRequest) -> Scope | None:
        """Return the scope that a request needs."""
        return self.upgrade_scope if self.upgrade_scope is not None and is_upgrade(request) else self.scope

    @property
    def is_simple(self) -> bool:
        """Whether the scope is all that the caller needs, and nothing is recorded."""
        return self == RouteRule(scope=self.scope) and self.scope is not None

    def opens_socket(self, request: web.BaseRequest) -> bool:
        """Whether a request opens a WebSocket: only where the route serves one, whatever the headers claim."""
        return (self.serves_socket or self.upgrade_scope is not None) and is_upgrade(request)


RouteKey = tuple[str, str]
"""A method, and a path in its canonical form."""

_PUBLIC = RouteRule(scope=None)
_READ = RouteRule(scope=Scope.READ)
_READ_SERVER = RouteRule(scope=Scope.READ, names_server=True)
_FORGET_SERVER = RouteRule(scope=Scope.ADMIN, names_server=True, action="forget_server")
_INGEST = RouteRule(scope=Scope.INGEST)
_PREDICT = RouteRule(scope=Scope.PREDICT)
_INFLUX = RouteRule(scope=Scope.INGEST, refuse=answer_influx_refusal)
_REMOTE_WRITE = RouteRule(scope=Scope.INGEST, refuse=answer_remote_write_refusal)
_AGENT = RouteRule(scope=Scope.INGEST, refuse=lambda request, error: answer_refusal(error))
_AGENT_SOCKET = RouteRule(scope=Scope.INGEST, serves_socket=True, refuse=lambda request, error: answer_refusal(error))


def _list_open_inference_rules(model: str) -> dict[RouteKey, RouteRule]:
    """Return the rules of the routes of the Open Inference Protocol for a model at this path."""
    return {
        ("GET", model): _PREDICT,
        ("GET", f"{model}/ready"): _PUBLIC,
        ("GET", f"{model}/config"): _PREDICT,
        ("GET", f"{model}/stats"): _PREDICT,
        ("POST", f"{model}/infer"): _PREDICT,
    }


ROUTE_RULES: Mapping[RouteKey, RouteRule] = {
    ("POST", "/v1/samples"): _INGEST,
    ("GET", "/v1/ingest"): RouteRule(scope=Scope.INGEST, serves_socket=True),
    ("GET", "/v1/forecasts"): RouteRule(scope=Scope.READ, upgrade_scope=Scope.SUBSCRIBE, names_server=True),
    ("GET", "/v1/forecasts/stream"): RouteRule(scope=Scope.SUBSCRIBE),
    ("GET", "/v1/forecasts/{server}"): _READ_SERVER,
    ("GET", "/v1/alerts"): _READ_SERVER,
    ("GET", "/v1/fleet"): _READ,
    ("GET", "/v1/alerts/stream"): RouteRule(scope=Scope.SUBSCRIBE),
    ("GET", "/v1/alerts/rules"): _READ_SERVER,
    ("GET", "/v1/silences"): _READ,
    # For which servers a silence may be, the handler checks: its body has their globs.
    ("POST", "/v1/silences"): RouteRule(scope=Scope.ADMIN, action="begin_silence"),
    ("DELETE", "/v1/silences/{id}"): RouteRule(scope=Scope.ADMIN, action="end_silence"),
    ("GET", "/v1/servers"): _READ_SERVER,
    ("GET", "/v1/servers/{server}"): _READ_SERVER,
    ("GET", "/v1/accuracy"): _READ_SERVER,
    ("GET", "/v1/servers/{server}/accuracy"): _READ_SERVER,
    ("DELETE", "/v1/servers"): _FORGET_SERVER,
    ("DELETE", "/v1/servers/{server}"): _FORGET_SERVER,
    ("POST", "/v1/predict"): _PREDICT,
    ("POST", "/predict"): _PREDICT,
    # Probes of service managers and load balancers carry no token.
    ("GET", "/healthz"): _PUBLIC,
    ("GET", "/readyz"): _PUBLIC,
    # A browser asks for a page without a token; the page then asks its reader for one.
    ("GET", "/"): _PUBLIC,
    ("GET", "/assets/{name}"): _PUBLIC,
    # They describe the interface alone: no server, no setting, no secret.
    ("GET", "/openapi.json"): _PUBLIC,
    ("GET", "/asyncapi.json"): _PUBLIC,
    ("GET", "/v2"): _PREDICT,
    ("GET", "/v2/health/live"): _PUBLIC,
    ("GET", "/v2/health/ready"): _PUBLIC,
    **_list_open_inference_rules("/v2/models/{model}"),
    **_list_open_inference_rules("/v2/models/{model}/versions/{version}"),
    ("GET", "/metrics"): _READ,
    ("GET", "/metrics/forecasts"): _READ,
    ("GET", "/v1/status"): _READ,
    ("POST", "/api/v1/write"): _REMOTE_WRITE,
    ("POST", "/receive"): _REMOTE_WRITE,
    ("POST", "/api/v2/write"): _INFLUX,
    ("POST", "/write"): _INFLUX,
    ("POST", "/query"): _INFLUX,
    # Clients of InfluxDB call these two before they send their token, and send nothing after a refusal.
    ("GET", "/ping"): _PUBLIC,
    ("GET", "/health"): _PUBLIC,
    ("POST", "/telegraf"): _AGENT,
    ("GET", "/telegraf"): _AGENT_SOCKET,
    ("POST", "/v1/metrics"): RouteRule(scope=Scope.INGEST, refuse=answer_otlp_refusal),
    ("POST", "/collectd"): _AGENT,
    ("POST", "/api/put"): RouteRule(scope=Scope.INGEST, refuse=lambda request, error: answer_put_refusal(error)),
    ("POST", "/glances"): _AGENT,
    ("POST", "/pcp"): _AGENT,
}
"""The rules of all routes but those of versions."""


def _change_version(action: str) -> RouteRule:
    return RouteRule(scope=Scope.ADMIN, for_all_servers=True, action=action)


VERSION_RULES: Mapping[RouteKey, RouteRule] = {
    ("GET", "/v1/engines"): _READ,
    ("POST", "/v1/engines/promote"): _change_version("promote"),
    ("POST", "/v1/engines/rollback"): _change_version("rollback"),
    ("POST", "/v1/engines/candidate"): _change_version("start_candidate"),
    ("DELETE", "/v1/engines/candidate"): _change_version("end_candidate"),
}
"""The rules of the routes that list and change versions."""


def bind_rules(app: web.Application, rules: Mapping[RouteKey, RouteRule]) -> dict[web.AbstractRoute, RouteRule]:
    """Return the rule of each route of an application.

    Raises `LookupError` if a route has no rule, or a rule no route: both are defects of the daemon.
    """
    routes = {route: find_route_key(route) for route in app.router.routes()}
    if missing := set(routes.values()) - set(rules):
        raise LookupError(f"routes without a rule of access: {sorted(missing)}")
    if unused := set(rules) - set(routes.values()):
        raise LookupError(f"rules of access without a route: {sorted(unused)}")
    return {route: rules[key] for route, key in routes.items()}


def find_route_key(route: web.AbstractRoute) -> RouteKey:
    """Return the method and the path of a route; `HEAD` has the rule of `GET`, whose handler it calls."""
    path = "" if route.resource is None else route.resource.canonical
    return hdrs.METH_GET if route.method == hdrs.METH_HEAD else route.method, path
