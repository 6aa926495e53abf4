"""Tests `streamd/tools/loadtest` against the daemon itself: rejected samples, and the report of them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from streamd.cli import main
from streamd.tools.daemon_token import TOKEN_VARIABLE
from streamd.tools.loadtest.errors import Exit
from tests.support.access_tokens import grant_all, make_access_list, make_test_token
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings, at, run_http_daemon

ROWS = 12
TOO_LONG = "x" * 257


async def replay(daemon: HttpDaemon, path: Path, lines: list[str], *more: str) -> tuple[int, dict[str, Any]]:
    """Run the command in a thread of its own, because it runs a loop of its own."""

    def run() -> tuple[int, dict[str, Any]]:
        path.write_text("\n".join(["server,time,cpu_user,mem_used,load_average", *lines]) + "\n")
        result = path.with_suffix(".json")
        options = ["--url", daemon.url, "--quiet", "--settle", "0.5", "--json", str(result)]
        arguments = ["replay", str(path), *options, *more]
        status = main(arguments)
        return status, json.loads(result.read_text()) if result.exists() else {}

    return await asyncio.to_thread(run)


def rows_of(server: str, first: int = 0) -> list[str]:
    return [f"{server},{at(first + step)},{step},1,2" for step in range(ROWS)]


JSON_READER = ["--subscriber-encoding", "json"]
WIRES = [[], ["--transport", "http"], ["--encoding", "msgpack", "--form", "columns", "--samples-a-frame", "4"]]


@pytest.mark.parametrize("wire", WIRES, ids=" ".join)
@pytest.mark.parametrize(
    ("server", "first", "code", "why"),
    [
        (TOO_LONG, 0, "invalid_server", "expected 1 to 256"),
        ("a", 60_000_000, "too_far_ahead", "ahead of the clock"),
    ],
    ids=["name", "time"],
)
async def test_a_completely_rejected_fleet_verifies_nothing(
    daemon: HttpDaemon,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    wire: list[str],
    server: str,
    first: int,
    code: str,
    why: str,
) -> None:
    daemon.open_lanes(2)
    status, found = await replay(daemon, tmp_path / "f.csv", rows_of(server, first), *wire)
    assert (status, found["complete"]) == (Exit.NOTHING, False)
    assert found["samples"]["rejected_by_code"] == {code: ROWS}
    out = capsys.readouterr().out
    assert f"{ROWS} rejected as {code}; server" in out
    assert why in out
    assert f"the daemon rejected every sample ({ROWS})" in out.splitlines()[-1]


async def test_a_partly_rejected_fleet_is_complete_and_reports_it(
    daemon: HttpDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.open_lanes(2)
    status, found = await replay(daemon, tmp_path / "f.csv", [*rows_of("a"), *rows_of(TOO_LONG)])
    assert status == Exit.COMPLETE, found["faults"]
    assert found["samples"]["accepted"] == found["samples"]["rejected"] == ROWS
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"{ROWS} of {2 * ROWS} samples were rejected")


@pytest.mark.parametrize("wire", [["--dtype", "float16"], JSON_READER, [*JSON_READER, "--one-by-one"]], ids=" ".join)
async def test_a_fleet_that_never_sends_a_target_is_complete(
    daemon: HttpDaemon, tmp_path: Path, wire: list[str]
) -> None:
    daemon.open_lanes(2)
    status, found = await replay(daemon, tmp_path / "f.csv", [f"a,{at(step)},,1,2" for step in range(ROWS)], *wire)
    assert (status, found["faults"]) == (Exit.COMPLETE, {})
    forecast = (await daemon.get("/v1/forecasts/a")).body
    assert (forecast["unknown"], forecast["values"][0]) == (["cpu_user"], None)


async def test_a_fleet_in_milliseconds_is_refused_before_anything_is_sent(
    daemon: HttpDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = await replay(daemon, tmp_path / "f.csv", [f"a,{at(0)}000,1,1,2"])
    assert status == Exit.USAGE
    assert f"f.csv:2: time {at(0)}000 looks like milliseconds; expected epoch seconds" in capsys.readouterr().err
    assert (await daemon.get("/v1/servers/a")).status == 404


async def test_a_daemon_with_tokens_is_called_with_the_token_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = make_test_token("replay", grant_all())
    settings = HttpDaemonSettings(access=make_access_list(token))
    async with run_http_daemon(tmp_path / "state", settings) as daemon:
        daemon.open_lanes(2)
        monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
        status, _ = await replay(daemon, tmp_path / "f.csv", rows_of("a"))
        assert status == Exit.UNREACHABLE
        assert "unauthorized" in capsys.readouterr().err
        monkeypatch.setenv(TOKEN_VARIABLE, token.token)
        status, found = await replay(daemon, tmp_path / "f.csv", rows_of("a"))
    assert status == Exit.COMPLETE, found["faults"]
    assert found["samples"]["accepted"] == ROWS
