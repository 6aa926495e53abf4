"""Tests `streamd/http/routes/forecast_metrics.py`: forecasts as metrics, by the servers that a caller may read."""

import asyncio
import shutil
import subprocess
import time
from typing import Any

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families

from streamd.core.access.scopes import Scope
from streamd.core.forecast_export.choice import ExportSettings
from streamd.http.routes.forecast_metrics import SLICE_SERVERS
from streamd.runtime.alerts.alert import CrossingTimes
from streamd.runtime.service import ServiceLimits
from tests.http.conftest import Start
from tests.support.access_tokens import grant_all, make_access_list, make_test_token
from tests.support.http_harness import (
    CONTRACT,
    JSON,
    MODEL,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    at,
    make_rows,
    make_window,
    make_wire_forecast,
    origin,
    pack,
)
from tests.support.made_alerts import make_alert

PATH = "/metrics/forecasts"
LINT = ' metrics should not have "quantile" label'
ODD = 'we"b\\1\nü☃'

Sample = tuple[str, tuple[tuple[str, str], ...]]


async def start_export(start: Start, *, more: dict[str, Any] | None = None, **settings: Any) -> HttpDaemon:
    chosen = {"servers": ("*",), "horizons": ("2m", "4m"), "quantiles": (0.1, 0.9), "max_age_steps": 0, **settings}
    limits = ServiceLimits(exports=ExportSettings(**chosen))
    return await start(HttpDaemonSettings(service_limits=limits, **(more or {})))


async def feed(daemon: HttpDaemon, *servers: str) -> None:
    for number, server in enumerate(servers):
        await daemon.accept(make_rows(server, number, range(NEED)))
    await daemon.service.pipeline.wait_idle()


def post_many(daemon: HttpDaemon, count: int) -> None:
    """Give forecasts to many servers, without a model."""
    state = daemon.service.state
    for number in range(count):
        slot, _ = state.admit(f"server-{number:05}", 0.0)
        state.windows.arrays["newest"][slot] = 1
        state.windows.arrays["values"][slot] = 1.0
        state.board.post(slot, 1, 1, MODEL.encode(), np.ones(CONTRACT.forecast_shape, np.float32))


async def read_samples(daemon: HttpDaemon, **headers: str) -> dict[Sample, float]:
    reply = await daemon.call("GET", PATH, headers=headers)
    assert reply.status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(reply.data.decode())
        for sample in family.samples
    }


def list_servers(samples: dict[Sample, float]) -> list[str]:
    return sorted(dict(labels)["server"] for name, labels in samples if name.endswith("origin_timestamp_seconds"))


async def test_values_are_those_of_the_steps_that_end_so_long_after_the_origin(start: Start) -> None:
    daemon = await start_export(start)
    await feed(daemon, "web-01", ODD)
    samples = await read_samples(daemon)
    for number, server in enumerate(("web-01", ODD)):
        forecast = make_wire_forecast(make_window(make_rows(server, number, range(NEED)), NEED - 1))
        for target, values in zip(CONTRACT.targets, forecast, strict=True):
            for horizon, step in (("2m", 1), ("4m", 3)):
                for quantile, place in (("0.1", 0), ("0.9", 2)):
                    labels = {"server": server, "target": target, "horizon": horizon, "quantile": quantile}
                    found = samples.pop(("streamd_forecast", tuple(sorted(labels.items()))))
                    assert np.float32(found) == values[step, place]
        assert samples.pop(("streamd_forecast_origin_timestamp_seconds", (("server", server),))) == origin(NEED - 1)
    assert samples == {("streamd_forecast_series_left_out", ()): 0}


async def test_without_chosen_servers_no_forecast_is_shown(daemon: HttpDaemon) -> None:
    await feed(daemon, "web-01")
    reply = await daemon.call("GET", PATH)
    assert reply.status == 200
    assert b"web-01" not in reply.data


async def test_the_chosen_targets_and_servers_are_shown_alone(start: Start) -> None:
    daemon = await start_export(start, servers=("web-*",), targets=("load_average",))
    await feed(daemon, "web-01", "db-01")
    samples = await read_samples(daemon)
    assert list_servers(samples) == ["web-01"]
    assert {dict(labels).get("target") for name, labels in samples if name == "streamd_forecast"} == {"load_average"}


async def test_a_token_shows_the_servers_that_it_may_read(start: Start) -> None:
    everything = make_test_token("everything", grant_all())
    token = make_test_token("web", {Scope.READ: ("web-*",)})
    daemon = await start_export(start, more={"access": make_access_list(everything, token)})
    rows = [row for number, server in enumerate(("web-01", "db-01")) for row in make_rows(server, number, range(NEED))]
    sent = await daemon.call(
        "POST", "/v1/samples", pack({"samples": rows}, JSON), {"Content-Type": JSON, **everything.headers}
    )
    assert sent.status == 200
    await daemon.service.pipeline.wait_idle()
    assert list_servers(await read_samples(daemon, **token.headers)) == ["web-01"]
    assert list_servers(await read_samples(daemon, **everything.headers)) == ["db-01", "web-01"]


async def test_active_alerts_are_shown_to_those_who_may_read_their_servers(start: Start) -> None:
    token = make_test_token("web", {Scope.READ: ("web-*",)})
    daemon = await start_export(start, servers=(), more={"access": make_access_list(token)})
    monitor = daemon.service.alerts
    assert monitor is not None
    times = CrossingTimes(0.0, time.time() + 1_000, None)
    for alert in (make_alert('"x"\\\n', "web-01", crosses_at=times), make_alert("x", "db-01", crosses_at=times)):
        monitor.active[alert.key] = alert
    samples = await read_samples(daemon, **token.headers)
    labels = {"rule": '"x"\\\n', "server": "web-01"}
    name = "streamd_alert_seconds_until"
    assert samples.pop((name, tuple(sorted({**labels, "bound": "earliest"}.items())))) == 0
    assert 900 < samples.pop((name, tuple(sorted({**labels, "bound": "likely"}.items())))) <= 1_000
    assert samples == {}


async def test_an_old_forecast_is_left_out(start: Start) -> None:
    daemon = await start_export(start, max_age_steps=2)
    exports = daemon.service.exports
    assert exports is not None
    await feed(daemon, "web-01")
    for seconds, servers in ((120, ["web-01"]), (121, [])):
        exports.wall = lambda seconds=seconds: float(origin(NEED - 1) + seconds)  # type: ignore[misc]
        assert list_servers(await read_samples(daemon)) == servers


async def test_a_target_that_a_server_does_not_send_is_left_out(start: Start) -> None:
    daemon = await start_export(start)
    rows = [{"server": "web-01", "time": at(step), "values": {"cpu_user": 1.0}} for step in range(NEED + 1)]
    await daemon.accept(rows)
    await daemon.service.pipeline.wait_idle()
    samples = await read_samples(daemon)
    assert {dict(labels).get("target") for name, labels in samples if name == "streamd_forecast"} == {"cpu_user"}


async def test_servers_beyond_the_bound_are_counted_and_left_out_by_their_names(start: Start) -> None:
    daemon = await start_export(start, max_series=20)  # a server has 8 series and its origin
    await feed(daemon, "c", "a", "d", "b")
    samples = await read_samples(daemon)
    assert list_servers(samples) == ["a", "b"]
    assert samples["streamd_forecast_series_left_out", ()] == 18


async def test_many_servers_come_in_slices_between_which_the_loop_has_its_turns(start: Start) -> None:
    daemon = await start_export(start, more={"capacity": 2 * SLICE_SERVERS + 8})
    post_many(daemon, 2 * SLICE_SERVERS)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    samples = await read_samples(daemon)
    counting.cancel()
    assert len(samples) == 2 * SLICE_SERVERS * 9 + 1
    assert turns > 4


@pytest.mark.parametrize("coding", ["gzip", "deflate, gzip;q=0.5", "GZIP"])
async def test_a_scrape_is_compressed_if_the_caller_wants_it(start: Start, coding: str) -> None:
    daemon = await start_export(start)
    await feed(daemon, "web-01")
    plain = await daemon.call("GET", PATH, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    reply = await daemon.call("GET", PATH, headers={"Accept-Encoding": coding})
    assert reply.headers["Content-Encoding"] == "gzip"
    assert reply.data == plain.data, "the client decompresses it"


async def test_head_has_the_headers_alone(start: Start) -> None:
    daemon = await start_export(start)
    await feed(daemon, "web-01")
    reply = await daemon.call("HEAD", PATH, headers={"Accept-Encoding": "identity"})
    assert (reply.status, reply.data) == (200, b"")
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert (await daemon.get(PATH)).status == 200


async def test_gzip_that_is_refused_is_not_used(start: Start) -> None:
    daemon = await start_export(start)
    reply = await daemon.call("GET", PATH, headers={"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in reply.headers


async def test_openmetrics_is_sent_to_those_who_accept_it(start: Start) -> None:
    daemon = await start_export(start)
    await feed(daemon, "web-01", ODD)
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    reply = await daemon.call("GET", PATH, headers={"Accept": accept})
    assert reply.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families: Any = parse_open(reply.data.decode())  # type: ignore[no-untyped-call]
    assert {family.name for family in families} == {
        *("streamd_forecast", "streamd_forecast_origin_timestamp_seconds", "streamd_forecast_series_left_out"),
        "streamd_alert_seconds_until",
    }
    for refused in ("text/plain", "application/openmetrics-text;q=0", ""):
        reply = await daemon.call("GET", PATH, headers={"Accept": refused})
        assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b"# EOF" not in reply.data


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_complains_of_nothing_but_the_name_of_a_label(start: Start) -> None:
    daemon = await start_export(start)
    await feed(daemon, "web-01", ODD)
    page = (await daemon.call("GET", PATH)).data
    checked = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=page, capture_output=True, check=False
    )
    complaints = {
        line.split(" ", 1)[0] + line[-len(LINT) :] for line in (checked.stdout + checked.stderr).decode().splitlines()
    }
    # The rule is meant for the samples of summaries; Prometheus takes the label.
    assert complaints == {f"streamd_forecast{LINT}"}
