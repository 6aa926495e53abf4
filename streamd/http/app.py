"""The HTTP application: all routes over one service, built in one function.

Opens no port; the server does, by the runner that `HttpApp.make_runner` returns.
"""

from dataclasses import dataclass

from aiohttp import web

from streamd.http.connections import ConnectionCounts, HttpRunner
from streamd.http.errors import errors_middleware
from streamd.http.protocols.collectd import CollectdRoutes
from streamd.http.protocols.glances import GlancesRoutes
from streamd.http.protocols.influx import InfluxRoutes
from streamd.http.protocols.intake import Intake
from streamd.http.protocols.netdata import NetdataRoutes
from streamd.http.protocols.otlp import OtlpRoutes
from streamd.http.protocols.pcp import PcpRoutes
from streamd.http.protocols.prometheus import RemoteWriteRoutes
from streamd.http.protocols.telegraf import TelegrafRoutes
from streamd.http.requests import BodyReader, TransportLimits
from streamd.http.routes.forecasts import ForecastRoutes
from streamd.http.routes.health import HealthRoutes
from streamd.http.routes.predict import PredictRoutes
from streamd.http.routes.samples import SampleRoutes
from streamd.http.routes.servers import ServerRoutes
from streamd.http.routes.versions import VersionChanges, VersionRoutes
from streamd.http.sockets import Sockets
from streamd.http.wire.frames import FrameEncoder
from streamd.runtime.service import Service


@dataclass(frozen=True)
class HttpApp:
    """The aiohttp application, with the sockets that must be closed when it stops."""

    app: web.Application
    sockets: Sockets
    counts: ConnectionCounts

    def make_runner(self, *, shutdown_timeout_seconds: float) -> HttpRunner:
        """Return the runner that serves the application; when it stops, an open request has this long to end."""
        return HttpRunner(self.app, self.counts, shutdown_timeout_seconds=shutdown_timeout_seconds)


def make_http_app(
    service: Service, limits: TransportLimits, engines: VersionChanges | None = None, admin_token: str = ""
) -> HttpApp:
    """Build the application over a service; without `engines` there are no routes that change versions."""
    bodies, sockets = BodyReader(limits, service.pauses), Sockets(limits, service.pauses)
    counts = ConnectionCounts()
    intake = Intake(service.collector, bodies)
    app = web.Application(middlewares=[errors_middleware], client_max_size=limits.max_body_bytes)
    for routes in (
        SampleRoutes(service, bodies, sockets),
        ForecastRoutes(service, FrameEncoder(service), sockets),
        ServerRoutes(service),
        PredictRoutes(service, bodies),
        HealthRoutes(service),
        RemoteWriteRoutes(service, intake),
        InfluxRoutes(service, intake),
        TelegrafRoutes(service, intake, sockets),
        OtlpRoutes(service, intake),
        CollectdRoutes(service, intake),
        NetdataRoutes(service, intake),
        GlancesRoutes(service, intake),
        PcpRoutes(service, intake),
    ):
        routes.add_to(app)
    if engines is not None:
        VersionRoutes(bodies, engines, admin_token).add_to(app)
    metrics = service.metrics
    metrics.add_counter("peers_left", "Requests whose peer left before they were answered", lambda: counts.peers_left)
    metrics.add_counter("malformed_requests", "Requests that are not valid HTTP", lambda: counts.malformed_requests)
    return HttpApp(app, sockets, counts)
