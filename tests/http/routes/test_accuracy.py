"""Tests `streamd/http/routes/accuracy.py`: past forecasts of a server against what came true."""

from urllib.parse import quote

import numpy as np
import pytest

from streamd.core.accuracy.history_selection import HistoryLimits
from streamd.runtime.service import ServiceLimits
from tests.http.conftest import Start
from tests.support.http_harness import (
    AS_ADMIN,
    CONTRACT,
    JSON,
    MSGPACK,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    Message,
    is_same_array,
    make_rows,
    make_sample,
    make_window,
    make_wire_forecast,
    origin,
    read_array,
    values_of,
)

HISTORY = HttpDaemonSettings(service_limits=ServiceLimits(history=HistoryLimits(every_steps=1, settle_steps=0)))
LAST = NEED + CONTRACT.horizon


@pytest.fixture
async def daemon(start: Start) -> HttpDaemon:
    """A daemon that keeps each forecast but the first; the one from `NEED` has its whole truth."""
    daemon = await start(HISTORY)
    for server, number in (("a", 1), ("b/accuracy", 2)):
        await send_and_wait(daemon, server, number, range(LAST + 1))
    daemon.service.history.sweep()
    return daemon


async def send_and_wait(daemon: HttpDaemon, server: str, number: int, steps: range) -> None:
    """Send rows one by one, and wait for the forecast of each."""
    for step in steps:
        await daemon.accept(make_rows(server, number, [step]))
        await daemon.service.pipeline.wait_idle()


async def get_history(daemon: HttpDaemon, query: str = "", accept: str = JSON) -> Message:
    reply = await daemon.get(f"/v1/accuracy?server=a{query}", accept)
    assert reply.status == 200, reply.body
    body = reply.body
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
async def test_a_past_forecast_stands_beside_what_came_true(daemon: HttpDaemon, accept: str) -> None:
    body = await get_history(daemon, accept=accept)
    assert (body["server"], body["step_seconds"]) == ("a", CONTRACT.step_seconds)
    assert (body["targets"], body["quantiles"]) == (list(CONTRACT.targets), list(CONTRACT.quantiles))
    first, *others = body["forecasts"]
    assert [each["origin"] for each in body["forecasts"]] == [origin(step) for step in range(NEED, LAST + 1)]
    assert (first["model"], first["is_complete"]) == (daemon.service.model, True)
    window = make_window(make_rows("a", 1, range(NEED + 1)), NEED)
    assert is_same_array(read_array(first["values"]), make_wire_forecast(window))
    truth = [[values_of(1, step)[target] for step in range(NEED + 1, LAST + 1)] for target in CONTRACT.targets]
    assert is_same_array(read_array(first["truth"]), np.array(truth, np.float32))
    second = np.array([[*row[1:], np.nan] for row in truth], np.float32)
    assert not any(each["is_complete"] for each in others)
    assert is_same_array(read_array(others[0]["truth"]), second), "what is known by now"


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
async def test_a_target_that_was_unknown_has_no_values_and_no_scores(start: Start, accept: str) -> None:
    daemon = await start(HISTORY)
    named, silent = CONTRACT.targets
    for step in range(LAST + 1):
        values = values_of(1, step)
        if step <= NEED:  # of the first forecast it is not known, although its truth comes
            del values[silent]
        await daemon.accept([make_sample("a", step, values)])
        await daemon.service.pipeline.wait_idle()
    daemon.service.history.sweep()
    body = await get_history(daemon, accept=accept)
    first, *others = (each for each in body["forecasts"] if each["origin"] >= origin(NEED))
    assert first["unknown"] == [silent]
    assert not any("unknown" in each for each in others)
    if accept == JSON:
        assert first["values"][1] is None
    else:
        assert np.isnan(read_array(first["values"])[1]).all()
    assert read_array(first["truth"]).shape == (2, CONTRACT.horizon)
    assert {each["target"] for each in body["summary"]} == {named}


async def test_scores_are_by_target_and_quarter_and_summed_over_the_period(daemon: HttpDaemon) -> None:
    body = await get_history(daemon)
    (forecast, *_), scores, summary = body["forecasts"], body["scores"], body["summary"]
    assert {(each["target"], each["range"]) for each in scores} == {
        (target, f"{step}-{step}") for target in CONTRACT.targets for step in (1, 2, 3, 4)
    }
    one = next(each for each in scores if (each["target"], each["range"]) == ("load_average", "2-2"))
    actual, (low, median, high) = forecast["truth"][1][1], forecast["values"][1][1]
    errors = [(0.1, actual - low), (0.5, actual - median), (0.9, actual - high)]
    losses = [max(level * error, (level - 1) * error) for level, error in errors]
    assert one["loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert one["mae"] == pytest.approx(abs(actual - median), rel=1e-5)
    assert (one["coverage"], one["count"], one["origin"]) == (float(low <= actual <= high), 1, origin(NEED))
    whole = next(each for each in summary if (each["target"], each["range"]) == ("load_average", "1-4"))
    assert whole["count"] == 4
    quarters = [each["loss"] for each in scores if each["target"] == "load_average"]
    assert whole["loss"] == pytest.approx(sum(quarters) / 4, rel=1e-5)


async def test_parameters_choose_a_part(daemon: HttpDaemon) -> None:
    body = await get_history(daemon, "&targets=load_average&every=2&limit=2")
    assert (body["targets"], body["every"]) == (["load_average"], 2)
    assert [each["origin"] for each in body["forecasts"]] == [origin(LAST - 1), origin(LAST)]
    assert np.array(body["forecasts"][0]["values"]).shape == (1, 2, 3)
    assert {each["target"] for each in body["summary"]} == {"load_average"}
    whole = await get_history(daemon)
    assert body["forecasts"][1]["values"][0] == whole["forecasts"][-1]["values"][1][1::2]


async def test_origins_are_chosen_by_time_and_the_summary_is_of_that_period(daemon: HttpDaemon) -> None:
    for query, steps, scored in (
        (f"&since={origin(LAST - 1)}", [LAST - 1, LAST], False),
        (f"&until={origin(NEED)}", [NEED], True),
        (f"&until={origin(NEED) - 1}", [], False),
        ("&since=2001-01-01T00:00:00%2B02:00&limit=1", [LAST], True),
    ):
        body = await get_history(daemon, query)
        assert [each["origin"] for each in body["forecasts"]] == [origin(step) for step in steps]
        assert bool(body["summary"]) == scored


async def test_a_wrong_parameter_is_refused(daemon: HttpDaemon) -> None:
    reply = await daemon.get("/v1/accuracy?server=a&limit=0")
    assert (reply.status, reply.code) == (400, "invalid_selection")


async def test_a_server_without_kept_forecasts_has_empty_lists(daemon: HttpDaemon) -> None:
    await daemon.accept(make_rows("new", 3, [0]))
    body = (await daemon.get("/v1/servers/new/accuracy")).body
    assert (body["forecasts"], body["scores"], body["summary"]) == ([], [], [])
    reply = await daemon.get("/v1/servers/unknown/accuracy")
    assert (reply.status, reply.code) == (404, "unknown_server")
    assert (await daemon.get("/v1/accuracy")).code == "invalid"


async def test_a_forgotten_server_has_no_history_when_it_reports_again(daemon: HttpDaemon) -> None:
    assert (await daemon.call("DELETE", "/v1/servers/a", headers=AS_ADMIN)).status == 204
    assert (await daemon.get("/v1/servers/a/accuracy")).status == 404
    await daemon.accept(make_rows("a", 1, range(NEED)))
    assert (await get_history(daemon))["forecasts"] == []


async def test_the_end_of_the_path_is_the_route_and_a_slash_in_a_name_is_encoded(daemon: HttpDaemon) -> None:
    name = quote("b/accuracy", safe="")
    assert "values" in (await daemon.get(f"/v1/servers/{name}")).body
    assert (await daemon.get("/v1/servers/b/accuracy")).code == "unknown_server", "the history of the server b"
    for path in (f"/v1/servers/{name}/accuracy", "/v1/servers/b/accuracy/accuracy", f"/v1/accuracy?server={name}"):
        assert (await daemon.get(path)).body["server"] == "b/accuracy"
    await daemon.accept(make_rows("accuracy", 4, [0]))
    assert (await daemon.get("/v1/servers/accuracy")).body["server"] == "accuracy"
    reply = await daemon.call("DELETE", "/v1/servers/b/accuracy", headers=AS_ADMIN)
    assert (reply.status, reply.headers["Allow"]) == (405, "GET,HEAD")
    assert (await daemon.call("DELETE", f"/v1/servers/{name}", headers=AS_ADMIN)).status == 204


async def test_the_status_and_the_metrics_count_and_name_no_server(daemon: HttpDaemon) -> None:
    await get_history(daemon)
    expected = {"servers": 2, "left_out": 0, "forecasts": 10, "scored": 2, "dropped": 0, "write_errors": 0}
    assert (await daemon.status())["accuracy_history"] == {**expected, "problem": None}
    metrics = (await daemon.get("/metrics")).data.decode()
    assert "streamd_history_servers 2.0\n" in metrics
    assert "streamd_history_forecasts 10.0\n" in metrics
