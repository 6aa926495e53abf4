"""Tests `streamd/tools/loadtest/capture_replay.py`: captures become rows and forecasts of a real daemon."""

import asyncio
import gzip
import json
import re
import shutil
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest

from streamd.cli import main
from streamd.core.mapping.series import Kind
from streamd.rule_sets import list_rule_sets, load_rule_set
from streamd.tools.loadtest import capture_replay as module
from streamd.tools.loadtest.capture_poster import CapturePoster
from streamd.tools.loadtest.capture_replay import CaptureReplay
from streamd.tools.loadtest.capture_result import CaptureSetup
from streamd.tools.loadtest.daemon import DaemonClient
from streamd.tools.loadtest.errors import Exit
from tests.support.agent_fixtures import AGENTS
from tests.support.http_harness import CONTRACT, NEED, HttpDaemon, HttpDaemonSettings, at, run_http_daemon
from tests.support.naive_aggregation import reduce_naively

STEP = CONTRACT.step_seconds
CLOSE_SECONDS = "1.5"
"""Longer than the grace of the daemon here, and than the interval at which it closes rows."""


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[HttpDaemon]:
    rule_sets = [load_rule_set(name) for name in list_rule_sets()]
    contract = replace(CONTRACT, features=(*CONTRACT.features, "uptime"), units={**CONTRACT.units, "uptime": "s"})
    settings = HttpDaemonSettings(rule_sets=rule_sets, grace_seconds=0.01, contract=contract)
    async with run_http_daemon(tmp_path / "state", settings) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "captures"
    folder.mkdir()
    return folder


async def replay(url: str, *paths: Path, more: Iterable[str] = (), settle: str = CLOSE_SECONDS) -> tuple[int, Any]:
    """Run the command in a thread of its own, because it runs a loop of its own."""
    result = paths[0].parent / f"{paths[0].name}.result"
    options = ["--url", url, "--quiet", "--settle", settle, "--json", str(result)]
    status = await asyncio.to_thread(main, ["replay", "--capture", *map(str, paths), *options, *more])
    return status, json.loads(result.read_text()) if result.exists() else {}


def copy_bodies(folder: Path, agent: str, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        for suffix in ("body", "json"):
            shutil.copy(AGENTS / agent / f"{name}.{suffix}", folder)
    return folder


# ---------------------------------------------------------------- captured bodies
async def test_the_bodies_of_prometheus_make_a_row(
    daemon: HttpDaemon, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = await replay(daemon.url, copy_bodies(folder, "prometheus", "metadata", "samples", "stale"))
    assert status == Exit.COMPLETE
    assert found["requests"] | {"seconds": 0} == {"taken": 3, "partly_taken": 0, "refused": 0, "seconds": 0}
    assert found["bodies"]["files"] == 3
    assert found["points"]["rejected"] == {}
    (server,) = found["servers"]
    assert (server["server"], server["rows"]) == ("web-01", server["new_rows"])
    assert server["forecast"] == {"status": "warming", "have": server["rows"], "need": NEED}
    assert set(server["features"]) == {"cpu_user", "mem_used", "load_average", "uptime"}
    shown = capsys.readouterr().out
    assert f"web-01: {server['rows']} rows, {server['rows']} of them new, up to 2026-11-28 " in shown
    assert f"warming {server['rows']}/{NEED}" in shown


async def test_the_three_bodies_of_a_step_of_collectd_make_one_row(daemon: HttpDaemon, folder: Path) -> None:
    status, found = await replay(daemon.url, copy_bodies(folder, "collectd", "rates-1", "rates-2", "rates-3"))
    assert status == Exit.COMPLETE
    (server,) = found["servers"]
    assert (server["server"], server["rows"]) == ("web-01", 1)
    assert "load_average" in server["features"]


async def test_lines_without_a_timestamp_count_as_of_now_and_their_row_is_open(
    daemon: HttpDaemon, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their step may end while the command waits; then there is a row."""
    status, found = await replay(
        daemon.url, copy_bodies(folder, "glances-influxdb2", "lines-1", "lines-2"), settle="0.1"
    )
    assert status == Exit.COMPLETE
    assert found["bodies"]["lines_without_timestamp"] == 24
    assert found["points"]["taken"] > 0
    shown = capsys.readouterr().out
    assert "24 lines have no timestamp: the daemon took them as of now" in shown
    if found["open_until"] is not None:
        assert found["open_until"] % STEP == 0
        assert "its rows close row_grace_seconds later (a longer --settle waits for them)" in shown


async def test_a_refused_body_is_named_and_the_others_are_taken(
    daemon: HttpDaemon, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_bodies(folder, "collectd", "rates-1", "rates-2", "rates-3")
    (folder / "rates-2.body").write_bytes(b"[{]")
    (folder / "unknown.body").write_bytes(b"[]")
    status, found = await replay(daemon.url, folder)
    assert status == Exit.LOST
    assert (found["requests"]["taken"], found["requests"]["refused"], found["unreadable_files"]) == (2, 1, 1)
    assert found["points"]["taken"] > 0
    shown = capsys.readouterr().out
    assert "rates-2.body: 400: " in shown
    assert "unknown.body: its format cannot be recognised" in shown
    assert shown.splitlines()[-1].startswith("REFUSED  2 bodies or files")


async def test_rejected_points_are_counted_with_the_way_out(
    daemon: HttpDaemon, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = write_dump(folder / "newer", {("node_load1", ""): [(at(1_598_600), 1.0)]})
    assert (await replay(daemon.url, newer, settle="0.1"))[0] == Exit.COMPLETE
    status, found = await replay(daemon.url, copy_bodies(folder / "bodies", "collectd", "rates-1"), settle="0.1")
    assert status == Exit.NOTHING
    assert set(found["points"]["rejected"]) == {"too_old"}
    assert found["requests"]["partly_taken"] == 1
    assert found["servers"] == []
    shown = capsys.readouterr().out
    assert re.search(r"rates-1\.body: 200: \d+ points were rejected: web-01: time [\d.]+ is too old: ", shown)
    assert "the daemon has newer rows of their servers, which are final; forget these servers" in shown
    assert "no window has a new row" in shown


# ---------------------------------------------------------------- dumps
Points = list[tuple[float, float]]


def write_dump(file: Path, series: Mapping[tuple[str, str], Points], host: str = "web-01") -> Path:
    """Write a dump; a series is named by its metric and its other labels."""
    file.parent.mkdir(exist_ok=True)
    lines = [
        f'{{__name__="{name}", instance="{host}:9100"{labels}}} {value!r} {round(time * 1000)}\n'
        for (name, labels), points in series.items()
        for time, value in points
    ]
    data = "".join(lines).encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


def make_series(steps: int) -> dict[tuple[str, str], Points]:
    """Make counters with a reset and gauges, each quarter of a step, off the grid."""
    times = [at(0) + 3.25 + STEP / 4 * number for number in range(4 * steps)]
    random = np.random.default_rng(1)
    found: dict[tuple[str, str], Points] = {("node_load1", ""): [(time, float(random.uniform(0, 9))) for time in times]}
    for cpu in (0, 1):
        increases = random.uniform(0, STEP / 4, len(times))
        increases[2 * len(times) // 3] = -np.sum(increases[: 2 * len(times) // 3])  # the host started again
        values = np.cumsum(increases)
        labels = f', cpu="{cpu}", mode="user"'
        found["node_cpu_seconds_total", labels] = list(zip(times, values.tolist(), strict=True))
    return found


def compute_naively(series: Mapping[tuple[str, str], Points], step: int) -> dict[str, float]:
    def reduce(points: Points, kind: Kind) -> float:
        return reduce_naively(points, kind, at(step), at(step + 1), 2.0 * STEP)

    cores = [reduce(points, Kind.COUNTER) for (name, _), points in series.items() if name == "node_cpu_seconds_total"]
    return {"cpu_user": 100 * mean(cores), "load_average": reduce(series["node_load1", ""], Kind.GAUGE)}


@pytest.mark.parametrize("name", ["dump.txt", "dump.txt.gz"])
async def test_a_dump_makes_the_rows_that_its_samples_would_have_made_live(
    daemon: HttpDaemon, folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = 6
    series = make_series(steps)
    status, found = await replay(daemon.url, write_dump(folder / name, series))
    assert status == Exit.COMPLETE
    assert (found["dump"]["samples"], found["dump"]["series"]) == (3 * 4 * steps, 3)
    assert found["points"]["taken"] == 3 * 4 * steps
    window = (await daemon.get("/v1/servers/web-01")).body
    assert (window["origin"], window["have"]) == (at(steps), steps)
    columns = {feature: window["features"].index(feature) for feature in ("cpu_user", "load_average")}
    for step, row in enumerate(window["values"][-steps:]):
        expected = compute_naively(series, step)
        assert {feature: row[column] for feature, column in columns.items()} == pytest.approx(expected, rel=1e-6)
    (server,) = found["servers"]
    assert server["forecast"]["origin"] == at(steps)
    assert set(server["forecast"]["targets"]) == {"cpu_user", "load_average"}
    shown = capsys.readouterr().out
    assert "web-01: 6 rows, 6 of them new, up to 2023-11-14 " in shown
    assert "2 of 4 features (not mem_used, uptime)" in shown
    assert "load_average  in 1 min " in shown


async def test_dumps_of_two_prometheuses_are_merged_by_time(daemon: HttpDaemon, folder: Path) -> None:
    parts = make_series(NEED + 1)
    first = write_dump(folder / "a", {key: points for key, points in parts.items() if key[0] == "node_load1"})
    second = write_dump(folder / "b", {key: points for key, points in parts.items() if key[0] != "node_load1"})
    status, found = await replay(daemon.url, first, second)
    assert status == Exit.COMPLETE
    assert found["dump"]["files"] == 2
    assert found["points"]["rejected"] == {}
    assert set(found["servers"][0]["features"]) == {"cpu_user", "load_average"}


async def test_a_dump_with_repeated_and_unreadable_lines_says_so(
    daemon: HttpDaemon, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_dump(folder / "dump", {("node_load1", ""): [(at(0), 1.0), (at(0), 3.0), (at(1), 2.0)]})
    file.write_bytes(file.read_bytes() + b'{__name__="node_load1"} NaN 1\n{__name__="up\n')
    status, found = await replay(daemon.url, file)
    assert status == Exit.COMPLETE
    assert found["dump"] | {"files": 1} == {
        "files": 1,
        "samples": 3,
        "series": 2,
        "repeated": 1,
        "skipped": {"missing value": 1},
        "unreadable_lines": 1,
    }
    window = (await daemon.get("/v1/servers/web-01")).body
    assert window["values"][-2][window["features"].index("load_average")] == 3.0
    shown = capsys.readouterr().out
    assert "1 points have the series and the time of another one: each pair counts once" in shown
    assert "1 lines of the dump cannot be read; line 5: " in shown


async def test_a_dump_that_is_cut_off_is_replayed_up_to_there(
    daemon: HttpDaemon, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_dump(folder / "dump.gz", make_series(40))
    file.write_bytes(file.read_bytes()[:-30])
    status, found = await replay(daemon.url, file)
    assert (status, found["unreadable_files"]) == (Exit.LOST, 1)
    assert found["points"]["taken"] > 0
    assert "dump.gz: cannot be read: " in capsys.readouterr().out


async def test_only_the_servers_and_targets_that_are_chosen_are_shown(
    daemon: HttpDaemon, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    series = {("node_load1", ""): [(float(at(step)), 1.0) for step in range(NEED)]}
    for number in range(4):
        write_dump(folder / f"{number}.txt", series, f"web-{number}")
    more = ["--glob", "web-[123]", "--targets", "load_average,cpu_user"]
    monkeypatch.setattr(module, "MAX_READ_SERVERS", 2)
    _, found = await replay(daemon.url, folder, more=more)
    assert [each["server"] for each in found["servers"]] == ["web-1", "web-2"]
    assert found["changed_servers"] == 4
    shown = [each["forecast"]["targets"] for each in found["servers"]]
    assert [set(each) for each in shown] == [{"load_average", "cpu_user"}] * 2
    assert [each["cpu_user"] for each in shown] == [None] * 2, "no series of it came"
    text = capsys.readouterr().out
    assert "servers with new rows: 2 of 4" in text
    assert text.count("cpu_user      unknown: no row of the window has a value") == 2


# ---------------------------------------------------------------- daemons and files that are not there
async def test_without_a_daemon_nothing_is_sent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = await replay("http://127.0.0.1:1", copy_bodies(folder, "collectd", "rates-1"))
    assert (status, found) == (Exit.UNREACHABLE, {})
    assert "no daemon at http://127.0.0.1:1/v1/status" in capsys.readouterr().err


async def test_a_daemon_that_leaves_is_reported_with_the_body_that_it_did_not_answer(
    daemon: HttpDaemon, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_bodies(folder, "collectd", "rates-1", "rates-2", "rates-3")
    posted = []
    post = CapturePoster.post

    async def post_or_leave(self: Any, request: Any) -> Any:
        posted.append(request.name)
        if len(posted) == 2:
            self._base = self._base.with_port(1)
        return await post(self, request)

    monkeypatch.setattr(CapturePoster, "post", post_or_leave)
    status, found = await replay(daemon.url, folder)
    assert status == Exit.LOST
    assert (found["requests"]["taken"], len(posted)) == (1, 2)
    assert "rates-2.body: Cannot connect" in found["lost"]
    assert capsys.readouterr().out.splitlines()[-1] == "LOST  the daemon no longer answers"


async def test_an_interrupted_replay_shows_what_was_taken_so_far(
    daemon: HttpDaemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = asyncio.Event()
    post = CapturePoster.post

    async def post_and_stop(self: Any, request: Any) -> Any:
        answer = await post(self, request)
        stop.set()
        return answer

    monkeypatch.setattr(CapturePoster, "post", post_and_stop)
    client = DaemonClient(daemon.session, daemon.url)
    setup = CaptureSetup(paths=[copy_bodies(folder, "collectd", "rates-1")], url=daemon.url, close_seconds=3600.0)
    poster = CapturePoster(daemon.session, daemon.url, answer_seconds=30.0, reconnect_seconds=0.0)
    shown: list[str] = []
    replayed = await CaptureReplay(client, poster, await client.fetch_status(), setup, shown.append).run(stop)
    assert replayed.choose_exit() is Exit.INTERRUPTED
    assert replayed.points.taken > 0
    assert shown[0].startswith("posted 1 bodies, now ")


async def test_a_path_that_is_not_there_is_wrong_usage(
    daemon: HttpDaemon, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = await replay(daemon.url, folder / "missing.body")
    assert status == Exit.USAGE
    assert "missing.body: no such file or folder" in capsys.readouterr().err
