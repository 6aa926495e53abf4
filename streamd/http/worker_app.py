"""The HTTP application of a worker: samples in and forecasts out; every other route is passed on to the engine process.

Opens no port. Each route has the rule of access that it has in a daemon of one process.
"""

from aiohttp import web

from streamd.core.access.access_list import AccessList
from streamd.http.access.gate import AccessGate
from streamd.http.access.origins import OriginPolicy
from streamd.http.access.rules import ROUTE_RULES, VERSION_RULES, RouteKey
from streamd.http.alert_sources import RelayedAlerts
from streamd.http.app import HttpApp, add_access_metrics, add_connection_metrics, make_connection_parts
from streamd.http.engine_relay import EngineRelay
from streamd.http.errors import errors_middleware, reply
from streamd.http.fleet_sources import RelayedFleet
from streamd.http.forwarding import EngineForwarder
from streamd.http.names import make_resource_path
from streamd.http.requests import BodyReader, TransportLimits
from streamd.http.routes.forecasts import ForecastRoutes
from streamd.http.routes.page import PageRoutes
from streamd.http.routes.samples import SampleRoutes, SampleTaker
from streamd.http.sample_socket import SinglesElsewhere
from streamd.http.server_answers import ServerAnswers
from streamd.http.sockets import Sockets
from streamd.http.wire.frames import FrameEncoder
from streamd.runtime.service import Service
from streamd.web.files import PageFiles

OWN_ROUTES: frozenset[RouteKey] = frozenset(
    {
        ("POST", "/v1/samples"),
        ("GET", "/v1/ingest"),
        ("GET", "/v1/forecasts"),
        ("GET", "/v1/forecasts/stream"),
        ("GET", "/v1/forecasts/{server}"),
        ("GET", "/healthz"),
        # The page must load while the engine process is away: then an operator looks first.
        ("GET", "/"),
        ("GET", "/assets/{name}"),
    }
)
"""The routes that a worker answers itself."""


def make_worker_app(
    service: Service,
    limits: TransportLimits,
    taker: SampleTaker,
    singles: SinglesElsewhere | None,
    forwarder: EngineForwarder,
    *,
    access: AccessList,
    origins: OriginPolicy,
    page: PageFiles | None = None,
) -> HttpApp:
    """Build the application of a worker over a service without lanes.

    `singles` takes frames of one sample; without it each of them is taken by `taker`, alone.
    """
    gate = AccessGate(access, origins)
    service.admission.name_owner = access
    connections = make_connection_parts(limits, service.pauses)
    bodies = BodyReader(limits, service.pauses, connections.budget, connections.turns)
    sockets = Sockets(limits, service.pauses, connections.turns)
    app = web.Application(middlewares=[errors_middleware, gate.admit], client_max_size=limits.max_body_bytes)
    SampleRoutes(service, bodies, sockets, taker, singles).add_to(app)
    relay = EngineRelay(forwarder)
    answers = ServerAnswers()
    frames = FrameEncoder(service)
    ForecastRoutes(service, frames, sockets, RelayedAlerts(relay), RelayedFleet(relay), answers).add_to(app)
    PageRoutes(page).add_to(app)
    app.router.add_get("/healthz", _get_health)
    rules = {**ROUTE_RULES, **VERSION_RULES}
    for method, path in rules.keys() - OWN_ROUTES:
        handler = forwarder.make_handler(rules[method, path])
        resource = make_resource_path(path)
        if method == "GET":
            app.router.add_get(resource, handler)
        else:
            app.router.add_route(method, resource, handler)
    gate.guard(app, rules)
    add_access_metrics(service.metrics, access, gate)
    add_connection_metrics(service.metrics, connections)
    return HttpApp(app, sockets, connections, answers)


async def _get_health(request: web.Request) -> web.Response:
    """Answer 200 as long as the event loop runs."""
    return reply(request, {"status": "alive"})
