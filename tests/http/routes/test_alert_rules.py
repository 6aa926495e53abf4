"""Tests `streamd/http/routes/alert_rules.py`: the rules as they were understood, and which of them a caller sees."""

from typing import Any

from streamd.core.access.scopes import Scope
from streamd.core.alerts.rules import bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from tests.http.conftest import Start
from tests.support.access_tokens import make_access_list, make_test_token
from tests.support.http_harness import (
    CONTRACT,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    Message,
    make_sample,
    values_of,
)
from tests.support.made_alerts import ServedAlerts

DB = make_test_token("db", {Scope.READ: ["db-*"]})
RULES: dict[str, Any] = {
    "fills": {
        "target": CONTRACT.targets[0],
        "above": 90.0,
        "hysteresis": 1.8,
        "within": 60,
        "for": 3,
        "servers": ["db-*", "web-01"],
        "labels": {"team": "storage"},
    },
    "idle": {"target": CONTRACT.targets[0], "below": 5.0, "servers": ["web-*"], "severity": "info"},
}


def serve_rules(daemon: HttpDaemon) -> None:
    ServedAlerts(daemon.service).held.rules += bind_alert_rules(AlertSettings(rules=RULES), CONTRACT)


async def list_rules(daemon: HttpDaemon, query: str = "", **headers: str) -> list[Message]:
    reply = await daemon.call("GET", f"/v1/alerts/rules{query}", headers=headers)
    assert reply.status == 200, reply.data
    rules: list[Message] = reply.body["rules"]
    return rules


async def test_a_rule_has_every_field_with_its_defaults(daemon: HttpDaemon) -> None:
    serve_rules(daemon)
    fills, idle = await list_rules(daemon)
    assert fills == {
        "rule": "fills",
        "target": CONTRACT.targets[0],
        "unit": CONTRACT.units.get(CONTRACT.targets[0], ""),
        "above": 90.0,
        "quantile": 0.5,
        "within_seconds": 60.0,
        "for": 3,
        "hysteresis": 1.8,
        "min_rows": -(-CONTRACT.context_length // 2),
        "servers": ["db-*", "web-01"],
        "severity": "warning",
        "labels": {"team": "storage"},
        "annotations": {},
    }
    assert (idle["below"], idle["hysteresis"], "above" in idle) == (5.0, 0.1, False)


async def test_the_rules_of_one_server_are_those_that_apply_to_it(daemon: HttpDaemon) -> None:
    serve_rules(daemon)
    for server, expected in {"db-1": ["fills"], "web-01": ["fills", "idle"], "web-02": ["idle"], "x": []}.items():
        assert [each["rule"] for each in await list_rules(daemon, f"?server={server}")] == expected


async def test_a_rule_says_of_a_server_that_its_target_is_unknown(daemon: HttpDaemon) -> None:
    serve_rules(daemon)
    for step in range(NEED + 2):
        values = values_of(1, step)
        if step <= NEED:
            del values["cpu_user"]
        await daemon.accept([make_sample("web-01", step, values)])
        await daemon.service.pipeline.wait_idle()
        if step == NEED:
            assert [each["unknown"] for each in await list_rules(daemon, "?server=web-01")] == [True, True]
            assert not any("unknown" in each for each in await list_rules(daemon))
    assert not any("unknown" in each for each in await list_rules(daemon, "?server=web-01"))


async def test_without_rules_the_list_is_empty(daemon: HttpDaemon) -> None:
    assert await list_rules(daemon) == []


async def test_a_caller_sees_rules_that_may_be_about_its_servers_and_no_name_of_others(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(access=make_access_list(DB)))
    serve_rules(daemon)
    assert [(each["rule"], each["servers"]) for each in await list_rules(daemon, **DB.headers)] == [("fills", ["db-*"])]
    refused = await daemon.call("GET", "/v1/alerts/rules?server=web-01", headers=DB.headers)
    assert refused.status == 403


async def test_an_unknown_parameter_is_refused(daemon: HttpDaemon) -> None:
    reply = await daemon.get("/v1/alerts/rules?servers=a")
    assert (reply.status, reply.body["code"]) == (400, "invalid_selection")
