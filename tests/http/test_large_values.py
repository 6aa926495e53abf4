"""Tests `streamd/core/values.py` over the wire: a number that is too large is never stored and never forecast from."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.rule_sets import list_rule_sets, load_rule_set
from tests.support import agent_bodies
from tests.support.http_harness import (
    JSON,
    MSGPACK,
    HttpDaemon,
    HttpDaemonSettings,
    at,
    make_sample,
    make_tensor,
    run_http_daemon,
)

LARGE = 3.4e38
AGENT_PATHS = ["/api/v1/write", "/v1/metrics", "/collectd", "/api/put", "/glances", "/pcp", "/api/v2/write", "/write"]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[HttpDaemon]:
    settings = HttpDaemonSettings(rule_sets=[load_rule_set(name) for name in list_rule_sets()])
    async with run_http_daemon(tmp_path, settings) as daemon:
        yield daemon


def make_bodies(value: float) -> list[tuple[str, Any]]:
    """Return bodies in which only the second row has the value, with and without columns."""
    rows = [[1.0, 2.0, 3.0], [1.0, value, 3.0]]
    columns = {"servers": ["a", "b"], "time": at(0), "features": ["cpu_user", "mem_used", "load_average"]}
    samples = [make_sample("a", 0), make_sample("b", 0, {"cpu_user": 1.0, "mem_used": value})]
    bodies: list[tuple[str, Any]] = [(kind, {"samples": samples}) for kind in (JSON, MSGPACK)]
    bodies.append((JSON, {"columns": {**columns, "values": rows}}))
    tensors = [make_tensor(np.array(rows, dtype)) for dtype in (np.float32, np.float64)]
    return bodies + [(MSGPACK, {"columns": {**columns, "values": tensor}}) for tensor in tensors]


@pytest.mark.parametrize("value", [LARGE, -1e30])
async def test_a_sample_is_rejected_alone_with_the_feature_the_value_and_the_bound(
    daemon: HttpDaemon, value: float
) -> None:
    for content_type, body in make_bodies(value):
        answer = (await daemon.post("/v1/samples", body, content_type)).body
        assert (answer["accepted"], answer["rejected"]) == (1, 1)
        (error,) = answer["errors"]
        assert (error["index"], error["code"]) == (1, "invalid_value")
        beginning, _, end = error["message"].partition(", ")
        name, _, shown = beginning.partition(" is ")
        assert (name, end) == ("values.mem_used", "expected a number of magnitude below 1e30, or null")
        assert np.float32(shown) == np.float32(value)
    assert (await daemon.status())["servers"] == 1


@pytest.mark.parametrize("path", AGENT_PATHS)
async def test_a_point_of_an_agent_is_rejected(daemon: HttpDaemon, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _push(daemon, path) == {}
    monkeypatch.setattr(agent_bodies, "LOAD", LARGE)
    assert set(await _push(daemon, path)) == {"invalid_value"}


async def _push(daemon: HttpDaemon, path: str) -> dict[str, int]:
    """Send a point, and return why points were rejected since the start of the daemon."""
    body, headers = agent_bodies.make_agent_request(path, "a", at(0))
    await daemon.call("POST", path, body, headers)
    (protocol,) = (await daemon.status())["agents"]["protocols"].values()
    assert protocol["taken"] > 0
    rejected: dict[str, int] = protocol["rejected"]
    return rejected
