"""The HTTP application: all routes over one service, built in one function.

Opens no port; the server does, by the runner that `HttpApp.make_runner` returns.
"""

from dataclasses import dataclass

from aiohttp import web

from streamd.core.access.access_list import AccessList
from streamd.http.access.gate import AccessGate
from streamd.http.access.origins import OriginPolicy
from streamd.http.access.rules import ROUTE_RULES, VERSION_RULES
from streamd.http.alert_sources import LocalAlerts
from streamd.http.byte_budget import ByteBudget
from streamd.http.connection_errors import ConnectionCounts
from streamd.http.connection_table import ConnectionTable
from streamd.http.connections import ConnectionParts
from streamd.http.direct.predict import DirectPredict
from streamd.http.documents.routes import DocumentRoutes
from streamd.http.errors import errors_middleware
from streamd.http.fleet_sources import LocalFleet
from streamd.http.forwarding import believe_forwarded
from streamd.http.open_inference.routes import OpenInferenceRoutes
from streamd.http.other_nodes import OtherNodes
from streamd.http.peer_turns import PeerTurns
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
from streamd.http.routes.accuracy import AccuracyRoutes
from streamd.http.routes.alert_rules import AlertRuleRoutes
from streamd.http.routes.alerts import AlertRoutes
from streamd.http.routes.fleet import FleetRoutes
from streamd.http.routes.forecast_metrics import ForecastMetricsRoutes
from streamd.http.routes.forecasts import ForecastRoutes
from streamd.http.routes.health import HealthRoutes
from streamd.http.routes.page import PageRoutes
from streamd.http.routes.predict import PREDICT_PATHS, PredictRoutes
from streamd.http.routes.samples import SampleRoutes, SampleTaker
from streamd.http.routes.servers import ServerRoutes
from streamd.http.routes.silences import SilenceRoutes
from streamd.http.routes.versions import VersionChanges, VersionRoutes
from streamd.http.runner import HttpRunner
from streamd.http.sample_socket import SinglesElsewhere
from streamd.http.server_answers import ServerAnswers
from streamd.http.sockets import Sockets
from streamd.http.wire.frames import FrameEncoder
from streamd.runtime.aggregation.point_intake import PointIntake
from streamd.runtime.metrics import Metrics
from streamd.runtime.pauses import Pauses
from streamd.runtime.service import Service
from streamd.web.files import PageFiles


@dataclass(frozen=True)
class HttpApp:
    """The aiohttp application, with the sockets that must be closed when it stops."""

    app: web.Application
    sockets: Sockets
    connections: ConnectionParts
    answers: ServerAnswers
    """The answers to calls about one server, for the other nodes of a cluster."""

    def make_runner(self, *, shutdown_timeout_seconds: float) -> HttpRunner:
        """Return the runner that serves the application; when it stops, an open request has this long to end."""
        return HttpRunner(self.app, self.connections, shutdown_timeout_seconds=shutdown_timeout_seconds)


def make_http_app(
    service: Service,
    limits: TransportLimits,
    engines: VersionChanges | None = None,
    *,
    access: AccessList,
    origins: OriginPolicy,
    page: PageFiles | None = None,
    is_behind_workers: bool = False,
    nodes: OtherNodes | None = None,
    taker: SampleTaker | None = None,
    singles: SinglesElsewhere | None = None,
    points: PointIntake | None = None,
) -> HttpApp:
    """Build the application over a service; without `engines` there are no routes of versions, without `page` no page.

    With `is_behind_workers`, only workers can connect, and what they say about a caller is believed. `nodes` are the
    other nodes of a cluster; there `taker` takes samples, `singles` frames of one sample, and `points` all points, in
    place of the service.
    """
    gate = AccessGate(access, origins)
    service.admission.name_owner = access
    # Calls without aiohttp know nothing of the workers' headers.
    direct = None if is_behind_workers else _make_direct_predict(service, gate, limits)
    connections = make_connection_parts(limits, service.pauses, direct)
    bodies = BodyReader(limits, service.pauses, connections.budget, connections.turns)
    sockets = Sockets(limits, service.pauses, connections.turns)
    intake = Intake(points or service.collector, bodies, service.traces)
    answers = ServerAnswers(nodes)
    first = [believe_forwarded] if is_behind_workers else []
    app = web.Application(middlewares=[*first, errors_middleware, gate.admit], client_max_size=limits.max_body_bytes)
    for routes in (
        SampleRoutes(service, bodies, sockets, taker, singles),
        ForecastRoutes(
            service,
            FrameEncoder(service),
            sockets,
            LocalAlerts(service.alert_subscriptions),
            LocalFleet(service.fleet, nodes),
            answers,
        ),
        FleetRoutes(service, nodes),
        AlertRoutes(service, sockets),
        AlertRuleRoutes(service),
        SilenceRoutes(service, bodies),
        ServerRoutes(service, answers, nodes),
        AccuracyRoutes(service, answers),
        PredictRoutes(service, bodies),
        OpenInferenceRoutes(service, bodies),
        HealthRoutes(service, access, nodes),
        PageRoutes(page),
        ForecastMetricsRoutes(service),
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
        VersionRoutes(bodies, engines).add_to(app)
    rules = ROUTE_RULES if engines is None else {**ROUTE_RULES, **VERSION_RULES}
    DocumentRoutes(service.contract, rules).add_to(app)
    gate.guard(app, rules)
    add_access_metrics(service.metrics, access, gate)
    add_connection_metrics(service.metrics, connections)
    return HttpApp(app, sockets, connections, answers)


def make_connection_parts(
    limits: TransportLimits, pauses: Pauses, direct: DirectPredict | None = None
) -> ConnectionParts:
    """Return what the connections of one application share; `direct` has the calls that they serve themselves."""
    return ConnectionParts(
        counts=ConnectionCounts(),
        table=ConnectionTable(limits, pauses),
        turns=PeerTurns(),
        budget=ByteBudget(limits.max_pending_body_bytes, lambda: pauses.clock()),
        direct=direct,
    )


def _make_direct_predict(service: Service, gate: AccessGate, limits: TransportLimits) -> DirectPredict:
    rules = {path: ROUTE_RULES["POST", path] for path in PREDICT_PATHS}
    if not all(rule.is_simple for rule in rules.values()):
        raise LookupError(f"{PREDICT_PATHS} have rules that only the gate of requests knows")
    return DirectPredict(service, gate, rules, limits.max_body_bytes)


def add_access_metrics(metrics: Metrics, access: AccessList, gate: AccessGate) -> None:
    """Add what the gate refused, and the state of the files of tokens and of TLS."""
    metrics.add_labelled_counter(
        "refused_requests",
        "Requests refused before their handler, by error code: no token, no right, a limit, a foreign site",
        "code",
        lambda: dict(gate.refused),
    )
    metrics.add_gauge("tokens", "Tokens in the tokens file", lambda: len(access))
    metrics.add_labelled_counter(
        "access_reloads",
        "Changes of the tokens file and of the files of TLS that were found, by result",
        "result",
        lambda: {"applied": access.reloads.applied, "rejected": access.reloads.rejected},
    )
    metrics.add_gauge(
        "access_files_rejected",
        "Files, of tokens or of TLS, whose present content was rejected and is not in use",
        lambda: len(access.reloads.rejected_files),
    )
    metrics.add_gauge(
        "certificate_expires_timestamp_seconds",
        "The end of validity of the certificate of TLS in use; 0 without TLS",
        lambda: access.reloads.certificate_expires,
    )


def add_connection_metrics(metrics: Metrics, connections: ConnectionParts) -> None:
    """Add the connections and what they hold."""
    counts, table, budget = connections.counts, connections.table, connections.budget
    metrics.add_counter("peers_left", "Requests whose peer left before they were answered", lambda: counts.peers_left)
    metrics.add_counter("malformed_requests", "Requests that are not valid HTTP", lambda: counts.malformed_requests)
    metrics.add_gauge("connections", "Open connections", lambda: len(table))
    metrics.add_gauge("pending_bytes", "Bytes of bodies and frames that are not taken yet", lambda: budget.held_bytes)
    metrics.add_labelled_counter(
        "connections_closed", "Connections that the daemon closed before their peer did", "reason", lambda: table.closed
    )
