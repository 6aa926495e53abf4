"""Tests `streamd/http/routes/servers.py`: the list of servers and the window of a server."""

import numpy as np
import pytest

from streamd.runtime.service import ServiceLimits
from tests.http.conftest import Start
from tests.support.access_tokens import grant_all, make_access_list, make_test_token
from tests.support.http_harness import (
    CONTRACT,
    JSON,
    MSGPACK,
    NEED,
    HttpDaemon,
    HttpDaemonSettings,
    is_same_array,
    make_rows,
    make_sample,
    make_window,
    origin,
    pack,
    read_array,
)


async def test_without_reports_the_list_of_servers_is_empty(daemon: HttpDaemon) -> None:
    assert (await daemon.get("/v1/servers")).body == {"servers": [], "next": None}


async def test_the_servers_that_report_are_listed(daemon: HttpDaemon) -> None:
    async with daemon.subscribed() as reader:
        await daemon.accept(
            [*make_rows("b", 1, range(NEED)), make_sample("a", 4), make_sample("c", 0, {"cpu_user": 1.0})]
        )
        await reader.receive()
    assert (await daemon.get("/v1/servers")).body == {
        "servers": [
            {"server": "a", "have": 1, "origin": origin(4), "last_forecast": None},
            {"server": "b", "have": NEED, "origin": origin(NEED - 1), "last_forecast": origin(NEED - 1)},
            {"server": "c", "have": 0, "origin": None, "last_forecast": None},
        ],
        "next": None,
    }


@pytest.mark.parametrize("limit", [1, 7, 10, 39, 40, 41, 1_000])
async def test_pages_show_every_server_once(daemon: HttpDaemon, limit: int) -> None:
    names = sorted([f"s {number}/é&" for number in range(39)] + ["zz"])
    await daemon.accept([make_sample(name, 0) for name in names])
    seen: list[str] = []
    query = {"limit": str(limit)}
    while True:
        async with daemon.session.get(daemon.url + "/v1/servers", params=query) as response:
            page = await response.json()
        assert len(page["servers"]) <= limit
        seen += [entry["server"] for entry in page["servers"]]
        if page["next"] is None:
            break
        assert len(page["servers"]) == limit
        query["cursor"] = page["next"]
    assert seen == names


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1.5", "1" * 30, "٣"])
async def test_an_invalid_limit_is_400(daemon: HttpDaemon, limit: str) -> None:
    async with daemon.session.get(daemon.url + "/v1/servers", params={"limit": limit}) as response:
        assert response.status == 400
        assert (await response.json())["code"] == "invalid"


@pytest.mark.parametrize("cursor", ["zzz", "￿", "\x00", "a" * 3_000])
async def test_any_cursor_is_accepted(daemon: HttpDaemon, cursor: str) -> None:
    await daemon.accept([make_sample("m", 0)])
    async with daemon.session.get(daemon.url + "/v1/servers", params={"cursor": cursor}) as response:
        assert response.status == 200
        assert (await response.json())["next"] is None


async def test_an_unknown_server_is_404(daemon: HttpDaemon) -> None:
    reply = await daemon.get("/v1/servers/nobody")
    assert (reply.status, reply.code) == (404, "unknown_server")


async def test_a_window_with_gaps_has_null_in_them(daemon: HttpDaemon) -> None:
    sent = [make_sample("a", 0), make_sample("a", 3, {"cpu_user": 1.5, "load_average": None}), make_sample("a", 4)]
    await daemon.accept(sent)
    body = (await daemon.get("/v1/servers/a")).body
    values = body.pop("values")
    assert body == {
        "server": "a",
        "step_seconds": CONTRACT.step_seconds,
        "origin": origin(4),
        "have": 3,
        "features": list(CONTRACT.features),
    }
    assert len(values) == CONTRACT.context_length
    assert values[-2] == [1.5, None, None]
    assert values[-4:-2] == [[None] * 3] * 2
    packed = (await daemon.get("/v1/servers/a", MSGPACK)).body["values"]
    assert is_same_array(read_array(packed), make_window(sent, 4))


async def test_a_row_that_is_still_open_is_not_in_the_window(daemon: HttpDaemon) -> None:
    await daemon.accept([make_sample("a", 0, {"cpu_user": 1.0})])
    body = (await daemon.get("/v1/servers/a")).body
    assert (body["origin"], body["have"]) == (None, 0)
    assert np.isnan(await daemon.window("a")).all()


async def test_a_body_of_new_names_evicts_no_server_that_was_seen_lately(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(capacity=3))
    for name in ("a", "b", "c"):
        await daemon.accept(make_rows(name, 1, range(NEED)))
    samples = [make_sample(f"new-{number}", NEED) for number in range(50)]
    body = (await daemon.post("/v1/samples", {"samples": samples})).body
    assert (body["accepted"], body["rejected"]) == (0, 50)
    assert {error["code"] for error in body["errors"]} == {"no_capacity"}
    names = [entry["server"] for entry in (await daemon.get("/v1/servers")).body["servers"]]
    assert names == ["a", "b", "c"]
    assert "streamd_servers_refused_total 50.0\n" in (await daemon.get("/metrics")).data.decode()


async def test_only_an_administrator_of_all_servers_evicts_one_that_was_seen_lately(start: Start) -> None:
    some, every = make_test_token("some", grant_all(["web-*"])), make_test_token("every", grant_all())
    daemon = await start(HttpDaemonSettings(capacity=1, access=make_access_list(some, every)))
    names: list[str] = []
    for token, name in ((every, "db-01"), (some, "web-01"), (every, "web-01")):
        body = pack({"samples": make_rows(name, 1, [0])}, JSON)
        assert (await daemon.post_bytes("/v1/samples", body, **token.headers)).status == 200
        names += daemon.service.state.directory.slots
    assert names == ["db-01", "db-01", "web-01"]


async def test_beyond_capacity_the_longest_silent_server_is_forgotten(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(capacity=3, service_limits=ServiceLimits(evict_after_seconds=0.0)))
    for name in ("a", "b", "c"):
        await daemon.accept(make_rows(name, 1, range(NEED)))
    await daemon.accept(make_rows("a", 1, [NEED]) + make_rows("d", 2, range(NEED)))
    names = [entry["server"] for entry in (await daemon.get("/v1/servers")).body["servers"]]
    assert names == ["a", "c", "d"]
    assert is_same_array(await daemon.window("d"), make_window(make_rows("d", 2, range(NEED)), NEED - 1))
    assert (await daemon.get("/v1/forecasts/b")).status == 404
