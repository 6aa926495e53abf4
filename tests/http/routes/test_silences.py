"""Tests `streamd/http/routes/silences.py`: silences as operators begin, see and end them, and who may."""

import time
from typing import Any

import pytest

from streamd.core.access.scopes import Scope
from streamd.core.alerts.rules import bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from tests.http.conftest import Start
from tests.support.access_tokens import ALL, grant_all, make_access_list, make_test_token
from tests.support.http_harness import CONTRACT, JSON, MSGPACK, HttpDaemon, HttpDaemonSettings, Message, pack
from tests.support.made_alerts import HeldAlerts, ServedAlerts
from tests.support.silence_rig import make_silence

ADMIN = make_test_token("admin", grant_all())
DB = make_test_token("db", {Scope.READ: ["db-*"], Scope.ADMIN: ["db-*"]})
READER = make_test_token("reader", {Scope.READ: ALL})
BODY = {"servers": ["db-*"], "rules": ["r"], "seconds": 3_600, "why": "disk swap", "who": "ops"}


@pytest.fixture
async def guarded(start: Start) -> HttpDaemon:
    """A daemon with tokens."""
    return await start(HttpDaemonSettings(access=make_access_list(ADMIN, DB, READER)))


@pytest.fixture
def held(guarded: HttpDaemon) -> HeldAlerts:
    """The alerts of that daemon, which has the rule `r`."""
    held = ServedAlerts(guarded.service).held
    held.rules += bind_alert_rules(AlertSettings(rules={"r": {"target": CONTRACT.targets[0], "above": 1.0}}), CONTRACT)
    return held


async def begin(daemon: HttpDaemon, headers: dict[str, str], **changes: Any) -> tuple[int, Message]:
    body = {key: value for key, value in {**BODY, **changes}.items() if value is not None}
    reply = await daemon.post_bytes("/v1/silences", pack(body, JSON), **headers)
    return reply.status, reply.body


async def list_silences(daemon: HttpDaemon, headers: dict[str, str]) -> list[Message]:
    reply = await daemon.call("GET", "/v1/silences", headers=headers)
    assert reply.status == 200, reply.data
    silences: list[Message] = reply.body["silences"]
    return silences


async def test_a_silence_begins_is_listed_and_ends(guarded: HttpDaemon, held: HeldAlerts) -> None:
    before = time.time()
    status, answer = await begin(guarded, ADMIN.headers)
    silence = answer["silence"]
    assert status == 201
    assert (silence["servers"], silence["rules"], silence["who"], silence["why"]) == (
        ["db-*"],
        ["r"],
        "ops",
        "disk swap",
    )
    assert before <= silence["starts_at"] <= time.time()
    assert silence["ends_at"] - silence["starts_at"] == pytest.approx(3_600)
    assert await list_silences(guarded, READER.headers) == [silence]
    path = f"/v1/silences/{silence['id']}"
    assert (await guarded.call("DELETE", path, headers=ADMIN.headers)).status == 204
    assert await list_silences(guarded, READER.headers) == []
    again = await guarded.call("DELETE", path, headers=ADMIN.headers)
    assert (again.status, again.body["code"]) == (404, "unknown_silence")


async def test_its_end_may_be_a_time_and_its_author_is_the_token(guarded: HttpDaemon, held: HeldAlerts) -> None:
    for until in (time.time() + 60, time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 60))):
        status, answer = await begin(guarded, ADMIN.headers, seconds=None, until=until, who=None, rules=None)
        assert status == 201
        assert 50 < answer["silence"]["ends_at"] - answer["silence"]["starts_at"] <= 60
        assert (answer["silence"]["who"], answer["silence"]["rules"]) == ("admin", None)


async def test_what_is_named_twice_is_kept_once(guarded: HttpDaemon, held: HeldAlerts) -> None:
    _, answer = await begin(guarded, ADMIN.headers, servers=["a", "b", "a"], rules=["r"] * 50_000)
    assert (answer["silence"]["servers"], answer["silence"]["rules"]) == (["a", "b"], ["r"])


async def test_a_silence_is_refused_with_what_was_expected(guarded: HttpDaemon, held: HeldAlerts) -> None:
    for changes, code, message in (
        ({"why": " "}, "invalid", "why has 1 characters"),
        ({"seconds": None}, "invalid", "neither seconds nor until is given"),
        ({"until": time.time() + 5}, "invalid", "seconds and until are both given"),
        ({"seconds": None, "until": 5.0}, "invalid", "the silence would end -"),
        ({"seconds": 31 * 86_400}, "invalid", "at most 30 days"),
        ({"servers": []}, "invalid_selection", "servers has 0 names and globs"),
        ({"rules": ["nothing"]}, "invalid_selection", "rules has 'nothing', expected some of r"),
        ({"comment": "x"}, "malformed", "comment"),
        ({"seconds": "1h"}, "malformed", "seconds"),
    ):
        status, answer = await begin(guarded, ADMIN.headers, **changes)
        assert (status, answer["code"]) == (400, code), changes
        assert message in answer["message"], changes
    assert held.silences == []


async def test_a_token_silences_only_its_own_servers_and_sees_only_what_may_concern_them(
    guarded: HttpDaemon, held: HeldAlerts
) -> None:
    assert (await begin(guarded, DB.headers, servers=["db-1?", "db-07"]))[0] == 201
    assert (await begin(guarded, DB.headers, servers=["db-1", "*"]))[0] == 403
    assert (await begin(guarded, READER.headers))[0] == 403
    ends_at = time.time() + 60
    held.silences += [
        make_silence("mixed", servers=("web-*", "*-07"), ends_at=ends_at),
        make_silence("other", servers=("web-*",), ends_at=ends_at),
        make_silence("over", ends_at=time.time() - 1),
    ]
    shown = await list_silences(guarded, DB.headers)
    assert [each["servers"] for each in shown] == [["db-1?", "db-07"], ["*-07"]]
    assert len(await list_silences(guarded, READER.headers)) == 3
    refused = await guarded.call("DELETE", "/v1/silences/mixed", headers=DB.headers)
    assert refused.status == 403


async def test_a_refusal_names_no_rule_that_is_only_about_servers_of_others(
    guarded: HttpDaemon, held: HeldAlerts
) -> None:
    rules = {"of_web": {"target": CONTRACT.targets[0], "above": 1.0, "servers": ["web-*"]}}
    held.rules += bind_alert_rules(AlertSettings(rules=rules), CONTRACT)
    assert (await begin(guarded, ADMIN.headers, rules=["of_web"]))[0] == 201
    status, answer = await begin(guarded, DB.headers, rules=["nothing"])
    assert (status, answer["message"]) == (400, "rules has 'nothing', expected some of r")


async def test_until_the_silences_of_the_former_process_are_known_none_is_said_to_be_over(guarded: HttpDaemon) -> None:
    served = ServedAlerts(guarded.service)
    guarded.service.alert_subscriptions.follow(served.held.active, are_restored=False)
    reply = await guarded.call("GET", "/v1/silences", headers=READER.headers)
    assert (reply.status, reply.body["code"]) == (503, "unavailable")
    assert (await begin(guarded, ADMIN.headers, rules=None))[0] == 503


async def test_message_pack_is_understood(guarded: HttpDaemon, held: HeldAlerts) -> None:
    reply = await guarded.post_bytes("/v1/silences", pack(BODY, MSGPACK), MSGPACK, **ADMIN.headers)
    assert (reply.status, reply.body["silence"]["why"]) == (201, "disk swap")


async def test_an_unknown_parameter_is_refused(guarded: HttpDaemon, held: HeldAlerts) -> None:
    reply = await guarded.call("GET", "/v1/silences?server=a", headers=READER.headers)
    assert (reply.status, reply.body["code"]) == (400, "invalid_selection")
