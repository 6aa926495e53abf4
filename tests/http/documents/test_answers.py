"""Tests `streamd/http/documents/answers.py`: the types of the answers are those of real answers."""

from collections.abc import Sequence

import msgspec
import pytest

from streamd.core.accuracy.history_selection import HistoryLimits
from streamd.http.documents.accuracy_calls import AccuracyAnswer
from streamd.http.documents.agent_answers import (
    InfluxErrorAnswer,
    InfluxHealthAnswer,
    InfluxQueryAnswer,
    OtlpAnswer,
    OtlpErrorAnswer,
    PointsAnswer,
    PutErrorAnswer,
    PutSummaryAnswer,
)
from streamd.http.documents.alert_calls import AlertsAnswer
from streamd.http.documents.answers import (
    ErrorAnswer,
    ForecastAnswer,
    HealthAnswer,
    NotReadyAnswer,
    ReadyAnswer,
    SamplesAnswer,
    ServersAnswer,
    WaitingAnswer,
    WindowAnswer,
)
from streamd.http.documents.fleet_calls import FleetAnswer
from streamd.http.documents.open_inference_answers import (
    InferenceAnswerBody,
    InferenceConfigAnswer,
    InferenceErrorAnswer,
    InferenceLiveAnswer,
    InferenceModelAnswer,
    InferenceReadyAnswer,
    InferenceServerAnswer,
    InferenceStatisticsAnswer,
)
from streamd.http.documents.status_answer import StatusAnswer
from streamd.rule_sets import list_rule_sets, load_rule_set
from streamd.runtime.service import ServiceLimits
from tests.http.conftest import Start
from tests.support.agent_bodies import make_agent_request
from tests.support.documented_answers import check_documented
from tests.support.http_harness import (
    CONTRACT,
    JSON,
    MODEL,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    Reply,
    at,
    make_rows,
    make_sample,
    pack,
)
from tests.support.made_alerts import ServedAlerts, make_alert, make_pending_alert, make_resolved_alert

MODEL_PATH = f"/v2/models/streamd/versions/{MODEL}"

Types = tuple[type[msgspec.Struct], ...]

READ: Sequence[tuple[str, int, Types]] = [
    ("/healthz", 200, (HealthAnswer,)),
    ("/readyz", 200, (ReadyAnswer,)),
    ("/health", 200, (InfluxHealthAnswer,)),
    ("/v1/status", 200, (StatusAnswer,)),
    ("/v1/servers", 200, (ServersAnswer,)),
    ("/v1/servers?limit=1", 200, (ServersAnswer,)),
    ("/v1/servers/web-01", 200, (WindowAnswer,)),
    ("/v1/servers/nobody", 404, (ErrorAnswer,)),
    ("/v1/servers/web-01/accuracy?every=2", 200, (AccuracyAnswer,)),
    ("/v1/forecasts/web-01", 200, (ForecastAnswer,)),
    ("/v1/forecasts/web-01?every=2", 200, (ForecastAnswer,)),
    ("/v1/forecasts/half-01", 200, (ForecastAnswer,)),
    ("/v1/forecasts/new-01", 200, (WaitingAnswer,)),
    ("/v1/forecasts?server=web-01&targets=heat", 400, (ErrorAnswer,)),
    ("/v1/alerts?state=firing,pending,resolved", 200, (AlertsAnswer,)),
    ("/v1/fleet", 200, (FleetAnswer,)),
    ("/v1/fleet?group=true&condition=stale,firing", 200, (FleetAnswer,)),
    ("/v1/fleet?sort=best", 400, (ErrorAnswer,)),
    ("/v1/ingest", 426, (ErrorAnswer,)),
    ("/v2", 200, (InferenceServerAnswer,)),
    ("/v2/health/live", 200, (InferenceLiveAnswer,)),
    ("/v2/health/ready", 200, (InferenceReadyAnswer,)),
    (MODEL_PATH, 200, (InferenceModelAnswer,)),
    (f"{MODEL_PATH}/config", 200, (InferenceConfigAnswer,)),
    (f"{MODEL_PATH}/ready", 200, (InferenceReadyAnswer,)),
    (f"{MODEL_PATH}/stats", 200, (InferenceStatisticsAnswer,)),
    ("/v2/models/other", 404, (InferenceErrorAnswer,)),
]
"""Calls without a body, the status of the answer, and its type."""

NAMELESS_GAUGE = {"name": "a", "gauge": {"dataPoints": [{"asDouble": 1, "timeUnixNano": "1"}]}}
NAMELESS_EXPORT = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [NAMELESS_GAUGE]}]}]}
"""An export that names no server, so that its point is rejected."""

BAD_SAMPLE = {"samples": [{"server": "web-01", "time": "yesterday", "values": {}}]}

SENT: Sequence[tuple[str, bytes, int, Types]] = [
    ("/v1/samples", pack(BAD_SAMPLE, JSON), 200, (SamplesAnswer,)),
    ("/v1/samples", b"[", 400, (ErrorAnswer,)),
    ("/telegraf", b'{"metrics": [{"name": 1}]}', 200, (PointsAnswer,)),
    ("/collectd", b"[{}]", 200, (PointsAnswer,)),
    ("/glances", make_agent_request("/glances", "web-01", at(NEED))[0], 200, (PointsAnswer,)),
    ("/pcp", make_agent_request("/pcp", "web-01", at(NEED))[0], 200, (PointsAnswer,)),
    ("/pcp", b"{}", 400, (ErrorAnswer,)),
    ("/write", b"no line", 400, (InfluxErrorAnswer,)),
    ("/query?q=CREATE%20DATABASE%20x", b"", 200, (InfluxQueryAnswer,)),
    ("/v1/metrics", b"{}", 200, (OtlpAnswer,)),
    ("/v1/metrics", pack(NAMELESS_EXPORT, JSON), 200, (OtlpAnswer,)),
    ("/v1/metrics", b"[", 400, (OtlpErrorAnswer,)),
    ("/api/put?details", b'[{"metric": "a", "value": "x", "timestamp": 1}]', 400, (PutSummaryAnswer,)),
    ("/api/put?summary", b'{"metric": "a", "value": 1, "timestamp": 1}', 200, (PutSummaryAnswer,)),
    ("/api/put", b'[{"metric": "a", "value": "x", "timestamp": 1}]', 400, (PutErrorAnswer,)),
    (f"{MODEL_PATH}/infer", b"{}", 400, (InferenceErrorAnswer,)),
]
"""Calls with a body in JSON."""


@pytest.fixture
async def served(start: Start) -> HttpDaemon:
    """A daemon with forecasts that came true, with alerts, and with the rules of other agents."""
    rule_sets = [load_rule_set(name) for name in list_rule_sets()]
    limits = ServiceLimits(history=HistoryLimits(every_steps=1, settle_steps=0))
    daemon = await start(HttpDaemonSettings(rule_sets=rule_sets, service_limits=limits))
    ServedAlerts(
        daemon.service, make_alert(), make_pending_alert("b", is_above=False), make_resolved_alert(server="web-02")
    )
    for step in range(NEED + CONTRACT.horizon + 1):
        await daemon.accept(make_rows("web-01", 1, [step]))
        await daemon.service.pipeline.wait_idle()
    await daemon.accept(make_rows("new-01", 1, [0]))
    await daemon.accept([make_sample("half-01", step, {"cpu_user": 1.0}) for step in range(NEED + 1)])
    await daemon.service.pipeline.wait_idle()
    daemon.service.history.sweep()
    return daemon


def check(reply: Reply, call: str, status: int, types: Types) -> None:
    assert reply.status == status, f"{call}: {reply.status} {reply.data!r}"
    check_documented(reply.body, *types)


async def test_the_answers_to_calls_without_a_body_are_as_documented(served: HttpDaemon) -> None:
    for path, status, types in READ:
        check(await served.get(path), path, status, types)


async def test_the_answers_to_calls_with_a_body_are_as_documented(served: HttpDaemon) -> None:
    for path, body, status, types in SENT:
        check(await served.post_bytes(path, body), path, status, types)


async def test_the_answer_of_a_past_forecast_has_its_scores(served: HttpDaemon) -> None:
    body = (await served.get("/v1/servers/web-01/accuracy")).body
    assert body["forecasts"]
    assert body["scores"]
    assert body["summary"]


async def test_the_answer_to_a_request_for_inference_is_as_documented(served: HttpDaemon) -> None:
    inputs: list[dict[str, object]] = [
        {"name": name, "datatype": "FP32", "shape": [1, *shape], "data": make_ones(shape)}
        for name, shape in CONTRACT.input_shapes.items()
        if name.endswith("_cont")
    ]
    call = {"inputs": inputs, "id": "7"}
    check(await served.post(f"{MODEL_PATH}/infer", call), "infer", 200, (InferenceAnswerBody,))
    inputs[0]["data"] = [1.0, 1.0, None] * CONTRACT.context_length  # a target without a value
    reply = await served.post(f"{MODEL_PATH}/infer", call)
    assert None in reply.body["outputs"][0]["data"]
    check(reply, "infer", 200, (InferenceAnswerBody,))


def make_ones(shape: tuple[int, ...]) -> list[float]:
    return [1.0] * (shape[0] * shape[1])


async def test_a_daemon_that_is_not_ready_answers_as_documented(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(lanes=0))
    check(await daemon.get("/readyz"), "/readyz", 503, (NotReadyAnswer,))
    check(await daemon.get("/v2/health/ready"), "/v2/health/ready", 503, (InferenceReadyAnswer,))


@pytest.mark.parametrize(
    "message", [{"status": "alive", "more": 1}, {"status": "dead"}, {}], ids=["unknown", "wrong", "missing"]
)
def test_an_answer_of_another_form_is_found(message: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        check_documented(message, HealthAnswer)
