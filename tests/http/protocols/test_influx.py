"""Tests `streamd/http/protocols/influx.py`: what writers of line protocol send, and what they expect."""

import gzip
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamd.core.errors import StorageError
from streamd.http.protocols.influx import STAMPED_HEADER, InfluxRoutes
from streamd.http.requests import TransportLimits
from streamd.rule_sets import load_rule_set
from tests.support.agent_routes import AgentServer, serve_agents
from tests.support.http_harness import HttpDaemonSettings, Reply

AGENTS = Path(__file__).parents[2] / "fixtures" / "agents"
PATHS = ("/api/v2/write?org=o&bucket=b", "/write?db=telegraf")
LIMITS = TransportLimits(max_body_bytes=100_000)
INFLUXDB_V2 = {"User-Agent": "Telegraf/1.40.0 Go/1.25.0", "Authorization": "Token abc"}
OUTPUTS_HTTP = {"User-Agent": "Telegraf/1.40.0 Go/1.25.0", "Content-Type": "text/plain; charset=utf-8"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[AgentServer]:
    settings = HttpDaemonSettings(rule_sets=[load_rule_set(name) for name in ("telegraf", "glances")])
    async with serve_agents(
        tmp_path, lambda service, intake, _: InfluxRoutes(service, intake), LIMITS, settings
    ) as served:
        yield served


def make_lines(count: int = 1, server: str = "web-01") -> bytes:
    stamp = time.time_ns()
    lines = [f"cpu,cpu=cpu-total,host={server} usage_user={index} {stamp - index}" for index in range(count)]
    return "\n".join(lines).encode()


def check_error(reply: Reply, status: int, code: str) -> str:
    """Check an error in both forms that clients read; returns its message."""
    body: Any = json.loads(reply.data)
    assert (reply.status, body["code"]) == (status, code)
    assert body["message"] == body["error"]
    return str(body["message"])


# ---------------------------------------------------------------- good bodies
@pytest.mark.parametrize("path", PATHS)
async def test_good_lines_are_answered_with_204_and_taken(server: AgentServer, path: str) -> None:
    for body in (make_lines(3), make_lines(3) + b"\n"):
        reply = await server.post(path, body)
        assert (reply.status, reply.data) == (204, b"")
        assert STAMPED_HEADER not in reply.headers
    assert server.get_counts("influx").taken == 6


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Token abc", "Content-Type": "text/plain"},
        {"Authorization": "Basic dXNlcjpwYXNz", "Content-Type": "text/plain; charset=utf-8"},
        {"Authorization": "Bearer abc", "Content-Type": "application/octet-stream"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "nonsense"},
    ],
)
async def test_a_token_and_any_content_type_are_accepted(
    server: AgentServer, path: str, headers: dict[str, str]
) -> None:
    assert (await server.post(path + "&u=user&p=pass", make_lines(), headers)).status == 204


async def test_a_body_may_be_compressed(server: AgentServer) -> None:
    reply = await server.post(PATHS[0], gzip.compress(make_lines(2)), {"Content-Encoding": "gzip"})
    assert reply.status == 204
    assert server.get_counts("influx").taken == 2


@pytest.mark.parametrize("path", PATHS)
async def test_an_empty_body_is_good(server: AgentServer, path: str) -> None:
    """influxdb-client 1.50.0 sends one if a point has only fields that are NaN."""
    assert (await server.post(path)).status == 204
    assert (await server.post(path, gzip.compress(b""), {"Content-Encoding": "gzip"})).status == 204


@pytest.mark.parametrize("precision", ["ns", "us", "ms", "s", "n", "u", ""])
async def test_the_precision_is_a_parameter(server: AgentServer, precision: str) -> None:
    units = {"us": 10**6, "u": 10**6, "ms": 10**3, "s": 1}.get(precision, 10**9)
    line = f"cpu,cpu=cpu-total,host=a usage_user=1 {int(time.time()) * units}".encode()
    reply = await server.post(f"/write?db=x&precision={precision}", line)
    assert reply.status == 204
    assert server.get_counts("influx").taken == 1


async def test_captured_bodies_are_taken(server: AgentServer) -> None:
    for name in ("glances-influxdb2/lines-1", "glances-influxdb2/lines-2", "influxdb-client/empty"):
        head: Any = json.loads((AGENTS / f"{name}.json").read_text())
        headers = {key: value for key, value in head["headers"] if key not in ("Host", "Content-Length")}
        body = (AGENTS / f"{name}.body").read_bytes()
        assert (await server.post(f"{head['path']}?{head['query']}", body, headers)).status == 204
    assert server.get_counts("influx").taken > 0


async def test_lines_without_a_timestamp_are_stamped_and_counted(server: AgentServer) -> None:
    lines = b"cpu,cpu=cpu-total,host=a usage_user=1\ncpu,cpu=cpu-total,host=b usage_user=1\n" + make_lines()
    for total in (2, 4):
        reply = await server.post(PATHS[0], lines)
        assert (reply.status, reply.headers[STAMPED_HEADER]) == (204, "2")
        assert f"streamd_lines_without_timestamp_total {total}.0" in server.service.metrics.render().decode()
    assert server.get_counts("influx").taken == 6


# ---------------------------------------------------------------- bad lines
@pytest.mark.parametrize("path", PATHS)
async def test_a_bad_line_is_named_and_the_good_ones_are_taken(server: AgentServer, path: str) -> None:
    body = make_lines() + b"\ncpu,host=a usage_user=abc\n\xff\xfe\n" + make_lines(2)
    for headers in ({}, INFLUXDB_V2):
        message = check_error(await server.post(path, body, headers), 400, "invalid")
        assert message.startswith(
            "partial write: unable to parse 2 points, 3 others are taken: line 2: field 'usage_user'"
        )
        assert "line 3" in message
    assert server.get_counts("influx").taken == 6


async def test_a_message_names_the_first_errors_only(server: AgentServer) -> None:
    message = check_error(await server.post(PATHS[0], b"bad\n" * 1_000), 400, "invalid")
    assert "unable to parse 1000 points" in message
    assert message.count("line ") == 3
    assert message.endswith("; ...")


async def test_times_far_off_are_named_too(server: AgentServer) -> None:
    lines = b"cpu,cpu=cpu-total,host=a usage_user=1 4000000000000000000\n" + make_lines()
    assert "ahead of the clock" in check_error(await server.post(PATHS[0], lines), 400, "invalid")
    assert server.get_counts("influx").taken == 1


@pytest.mark.parametrize("path", PATHS)
async def test_telegraf_s_outputs_http_is_not_made_to_repeat(server: AgentServer, path: str) -> None:
    """It repeats a batch after every answer but 2xx; the words "partial write" are for `outputs.influxdb`."""
    message = check_error(await server.post(path, make_lines() + b"\nbad", OUTPUTS_HTTP), 200, "invalid")
    assert message.startswith("partial write: ")
    large = b"x" * (LIMITS.max_body_bytes + 1)
    message = check_error(await server.post(path, large, OUTPUTS_HTTP), 200, "request too large")
    assert message.startswith("partial write: ")


# ---------------------------------------------------------------- refused bodies
@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_precision_is_refused(server: AgentServer, path: str) -> None:
    message = check_error(await server.post(f"{path}&precision=d", make_lines()), 400, "invalid")
    assert "precision is 'd', expected one of" in message
    assert server.get_counts("influx").refused == {"malformed": 1}


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_is_too_large_or_not_in_its_coding_is_refused(server: AgentServer, path: str) -> None:
    large = b"x" * (LIMITS.max_body_bytes + 1)
    gzipped = {"Content-Encoding": "gzip"}
    check_error(await server.post(path, large, INFLUXDB_V2), 413, "request too large")
    check_error(await server.post(path, gzip.compress(large), gzipped), 413, "request too large")
    check_error(await server.post(path, b"not gzip", gzipped), 400, "invalid")
    check_error(await server.post(path, gzip.compress(make_lines())[:-5], gzipped), 400, "invalid")
    check_error(await server.post(path, b"x", {"Content-Encoding": "br"}), 415, "unsupported media type")
    assert (await server.post(path, make_lines())).status == 204


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", [{}, INFLUXDB_V2, OUTPUTS_HTTP])
async def test_an_overload_is_503_before_the_body_is_decoded(
    server: AgentServer, path: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.service.collector.open_rows, "points_kept", server.service.collector.limits.max_points)
    reply = await server.post(path, b"bad", headers)
    check_error(reply, 503, "unavailable")
    assert reply.headers["Retry-After"] == "1"
    monkeypatch.undo()
    monkeypatch.setattr(server.service.collector, "is_draining", True)
    reply = await server.post(path, b"bad", headers)
    check_error(reply, 503, "unavailable")
    assert reply.headers["Retry-After"] == "1"


async def test_points_that_cannot_be_stored_are_503(server: AgentServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(server.service.collector.point_log, "append", fail)
    reply = await server.post(PATHS[0], make_lines())
    assert check_error(reply, 503, "unavailable") == "the disk is full"
    assert reply.headers["Retry-After"] == "1"


# ---------------------------------------------------------------- what clients ask besides
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_ping_is_answered_with_a_version(server: AgentServer, method: str) -> None:
    reply = await server.call(method, "/ping")
    assert (reply.status, reply.data) == (204, b"")
    assert reply.headers["X-Influxdb-Version"]


async def test_health_passes(server: AgentServer) -> None:
    """glances 4.5.8 asks for it twice before it writes."""
    reply = await server.call("GET", "/health")
    assert reply.status == 200
    assert reply.body == {"name": "streamd", "message": "ready for writes", "status": "pass", "checks": []}
    assert (await server.call("HEAD", "/health")).status == 200


async def test_a_database_may_be_created(server: AgentServer) -> None:
    """`outputs.influxdb` of Telegraf 1.40.0 sends this form at start, unless `skip_database_creation` is set."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for path, body in (
        ("/query", b"q=CREATE+DATABASE+%22telegraf%22"),
        ("/query?q=CREATE+DATABASE+x", b""),
        ("/query?q=create%20database%20x&db=y", b""),
    ):
        reply = await server.post(path, body, form)
        assert (reply.status, reply.body) == (200, {"results": [{"statement_id": 0}]})


@pytest.mark.parametrize("path", ["/query", "/query?q=SELECT+1", "/query?q=DROP+DATABASE+x", "/query?q="])
async def test_other_queries_are_refused(server: AgentServer, path: str) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for body in (b"", b"q=SHOW+DATABASES", b"\xff" * 100, b"q=" + b"CREATE DATABASE x" * 1_000):
        check_error(await server.post(path, body, form), 400, "invalid")
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    check_error(await server.post(path, b"--x\r\n\r\nhi", multipart), 400, "invalid")
