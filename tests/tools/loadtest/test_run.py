"""Tests `streamd/tools/loadtest/run.py`, by the command, against a fake daemon: without a fault, then with one."""

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from streamd.cli import main
from streamd.tools.loadtest.errors import Exit
from tests.support.fake_daemon import CONTEXT_LENGTH, NEED, STEP_SECONDS, FakeDaemon, Faults

SERVERS = ("alpha", "beta", "gamma")
STEPS = 12
ROWS = STEPS * len(SERVERS)
DUE = (STEPS - NEED + 1) * len(SERVERS)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """Three servers over twelve steps, wide."""
    path = tmp_path / "fleet.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["server", "time", "cpu_user", "cpu_idle", "mem_used"])
        for step in range(STEPS):
            for server in SERVERS:
                lines.writerow([server, 1_600_000_200 + step * STEP_SECONDS, 20 + step, 80 - step, 50])
    return path


async def replay(daemon: FakeDaemon, fleet: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Run the command in a thread of its own, because it runs a loop of its own."""
    result = fleet.with_suffix(".json")
    arguments = ["replay", str(fleet), "--url", daemon.url, "--quiet", "--settle", "0.5", "--json", str(result), *more]
    status = await asyncio.to_thread(main, arguments)
    return status, json.loads(result.read_text()) if result.exists() else {}


WIRES = [
    [],
    ["--encoding", "msgpack", "--form", "columns", "--samples-a-frame", "2", "--dtype", "float16"],
    ["--form", "columns", "--samples-a-frame", "3", "--one-by-one"],
    ["--transport", "http", "--samples-a-frame", "5", "--subscriber-encoding", "json"],
    ["--transport", "http", "--encoding", "msgpack", "--form", "columns", "--split", "2"],
    ["--split", "3", "--connections", "2", "--subscribers", "2"],
    ["--rate", "500", "--context-rows", "4"],
    ["--speed", "20000", "--context-rows", "4", "--encoding", "msgpack"],
]


@pytest.mark.parametrize("wire", WIRES, ids=" ".join)
async def test_all_is_accounted_for_over_every_wire(fleet: Path, wire: list[str]) -> None:
    async with FakeDaemon().running() as daemon:
        status, found = await replay(daemon, fleet, *wire)
    forecasts = found["forecasts"]
    assert status == Exit.COMPLETE, found["faults"]
    assert forecasts["expected"] == DUE == forecasts["received"] + forecasts["superseded"]
    assert found["samples"]["acked"] == found["samples"]["sent"]
    assert found["samples"]["unacked"] == 0
    assert found["notes"] == []
    assert daemon.rows["closed"] == ROWS


FAULTS = [
    (Faults(lose=3), "missing"),
    (Faults(duplicate=3), "duplicated"),
    (Faults(disorder=3), "quantiles_out_of_order"),
    (Faults(nan=3), "quantiles_out_of_order"),
    (Faults(wrong_context=3), "context_wrong"),
]


@pytest.mark.parametrize(("faults", "name"), FAULTS, ids=lambda one: one if isinstance(one, str) else "")
@pytest.mark.parametrize("reader", [["--dtype", "float16"], ["--subscriber-encoding", "json"]], ids=" ".join)
async def test_a_faulty_forecast_is_noticed(fleet: Path, faults: Faults, name: str, reader: list[str]) -> None:
    async with FakeDaemon(faults).running() as daemon:
        status, found = await replay(daemon, fleet, *reader)
    assert status == Exit.LOST
    assert found["faults"] == {name: 1}


async def test_superseded_rows_are_not_missing(fleet: Path) -> None:
    async with FakeDaemon(Faults(hold=True)).running() as daemon:
        status, found = await replay(daemon, fleet)
    assert status == Exit.COMPLETE
    assert found["forecasts"]["superseded"] == DUE - len(SERVERS)
    assert found["forecasts"]["received"] == len(SERVERS)


async def test_more_superseded_than_unreceived_rows_are_noted(fleet: Path) -> None:
    daemon = FakeDaemon()
    async with daemon.running():
        replaying = asyncio.create_task(replay(daemon, fleet))
        while daemon.rows["closed"] < ROWS // 2:
            await asyncio.sleep(0)
        daemon.faults.miscount = 2
        status, found = await replaying
    assert status == Exit.COMPLETE
    assert any("2 more superseded" in note for note in found["notes"])


async def test_forecasts_reported_as_lagged_are_not_missing(fleet: Path) -> None:
    async with FakeDaemon(Faults(lag=5)).running() as daemon:
        status, found = await replay(daemon, fleet)
    assert status == Exit.COMPLETE
    assert found["forecasts"]["lagged"] == 1


async def test_a_forecast_that_one_of_two_subscribers_lacks_is_missing(fleet: Path) -> None:
    daemon = FakeDaemon()
    deliver_forecast = daemon.deliver_forecast

    async def lose_one(subscriber: Any, server: str, step: int) -> None:
        if not (daemon.forecasts == 4 and subscriber is daemon.subscribers[-1]):
            await deliver_forecast(subscriber, server, step)

    daemon.deliver_forecast = lose_one  # type: ignore[method-assign]
    async with daemon.running():
        status, found = await replay(daemon, fleet, "--subscribers", "2")
    assert status == Exit.LOST
    assert found["faults"] == {"missing": 1}
    assert found["forecasts"]["received"] == DUE


async def test_a_subscriber_of_some_servers_expects_only_those(fleet: Path) -> None:
    async with FakeDaemon().running() as daemon:
        status, found = await replay(daemon, fleet, "--glob", "*ta")
    assert status == Exit.COMPLETE
    assert found["forecasts"]["expected"] == DUE // 3


async def test_rejected_samples_are_counted_by_code_and_not_expected(fleet: Path) -> None:
    async with FakeDaemon(Faults(reject={"beta"})).running() as daemon:
        status, found = await replay(daemon, fleet, "--samples-a-frame", "3")
    assert status == Exit.COMPLETE
    assert found["samples"]["rejected_by_code"] == {"sample_too_old": STEPS}
    assert found["forecasts"]["expected"] == DUE * 2 // 3


async def test_an_error_frame_rejects_the_frame_it_answers(fleet: Path) -> None:
    async with FakeDaemon(Faults(refuse_frame=4)).running() as daemon:
        status, found = await replay(daemon, fleet)
    assert status == Exit.COMPLETE
    assert found["samples"]["rejected_by_code"] == {"malformed_frame": 1}


async def test_an_unanswered_frame_is_a_loss_and_no_hang(fleet: Path) -> None:
    async with FakeDaemon(Faults(swallow_ack=5)).running() as daemon:
        status, found = await replay(daemon, fleet, "--ack-timeout", "0.3")
    assert status == Exit.LOST
    assert found["faults"]["unacked"] == 1
    assert "no answer for 0.3 s" in found["notes"][0]


async def test_a_frame_is_sent_to_a_busy_daemon_again_before_any_other(fleet: Path) -> None:
    async with FakeDaemon(Faults(throttle=10)).running() as daemon:
        status, found = await replay(daemon, fleet, "--transport", "http")
    assert status == Exit.COMPLETE
    assert found["samples"]["throttled"] == 1
    assert found["forecasts"]["received"] == DUE


async def test_a_closed_connection_is_a_loss(fleet: Path) -> None:
    async with FakeDaemon(Faults(hang_up_at=10)).running() as daemon:
        status, found = await replay(daemon, fleet, "--in-flight", "1")
    assert status == Exit.LOST
    assert found["faults"]["connections_lost"] == 1
    assert found["faults"]["unacked"] == 1


async def test_unacknowledged_frames_are_sent_again_after_reconnecting(fleet: Path) -> None:
    async with FakeDaemon(Faults(hang_up_at=10)).running() as daemon:
        status, found = await replay(daemon, fleet, "--reconnect", "5")
    assert found["samples"]["reconnects"] >= 1
    assert found["samples"]["frames_resent"] >= 1
    assert found["samples"]["unacked"] == 0
    assert daemon.rows["closed"] == ROWS
    assert status == Exit.COMPLETE, found["faults"]


async def test_a_missing_daemon_is_reported_with_its_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = await asyncio.to_thread(main, ["replay", "--url", "http://127.0.0.1:9", "--quiet"])
    assert status == Exit.UNREACHABLE
    assert "no daemon at http://127.0.0.1:9/v1/status" in capsys.readouterr().err


async def test_a_wrong_file_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fleet.csv"
    path.write_text("name,time\na,1\n")
    async with FakeDaemon().running() as daemon:
        status, _ = await replay(daemon, path)
    assert status == Exit.USAGE
    assert "expected one of server, machine" in capsys.readouterr().err


async def test_a_second_replay_knows_what_the_daemon_holds(fleet: Path, tmp_path: Path) -> None:
    acked = tmp_path / "acked.csv"
    async with FakeDaemon().running() as daemon:
        await replay(daemon, fleet, "--limit-rows", "6", "--acked-list", str(acked))
        rows_of_first = len(acked.read_text().splitlines()) - 1
        status, found = await replay(daemon, fleet, "--resume", str(acked))
    assert rows_of_first == 6 * len(SERVERS)
    assert found["samples"]["sent"] == ROWS - rows_of_first
    assert status == Exit.COMPLETE, found["faults"]
    assert found["forecasts"]["expected"] == found["forecasts"]["received"] == 6 * len(SERVERS)


async def test_acked_rows_are_found_or_missed_in_the_windows(fleet: Path, tmp_path: Path) -> None:
    acked = tmp_path / "acked.csv"
    async with FakeDaemon().running() as daemon:
        await replay(daemon, fleet, "--acked-list", str(acked))
        assert await asyncio.to_thread(main, ["replay", "--url", daemon.url, "--verify", str(acked)]) == Exit.COMPLETE
        newest = max(daemon.windows["beta"])
        del daemon.windows["beta"][newest - 2]
        report = tmp_path / "report.json"
        verify = ["replay", "--url", daemon.url, "--verify", str(acked), "--json", str(report)]
        assert await asyncio.to_thread(main, verify) == Exit.LOST
    counts = json.loads(report.read_text())
    assert counts["lost"] == [["beta", newest - 2]]
    assert counts["outside"] == (STEPS - CONTEXT_LENGTH) * len(SERVERS)


async def test_worker_processes_give_the_same_result(fleet: Path) -> None:
    async with FakeDaemon(Faults(lose=4)).running() as daemon:
        status, found = await replay(daemon, fleet, "--processes", "2", "--rate", "200", "--context-rows", "4")
    assert status == Exit.LOST
    assert found["faults"] == {"missing": 1}
    assert found["samples"]["acked"] == ROWS
    assert found["latency_ms"]["ack"]["count"] == ROWS - 4 * len(SERVERS)


async def test_a_synthetic_fleet_of_the_shipped_servers(fleet: Path) -> None:
    wire = ["--synthetic", "20", "--context-rows", "8", "--limit-rows", "3", "--shift-to-now"]
    async with FakeDaemon().running() as daemon:
        status, found = await replay(daemon, fleet, *wire, "--form", "columns", "--samples-a-frame", "10")
    assert status == Exit.COMPLETE
    assert found["fleet"] == {"servers": 20, "steps": 11, "fill_rows": 160, "measured_rows": 60}


@pytest.mark.parametrize(
    "wire",
    [
        [],
        ["--transport", "http"],
        ["--form", "columns", "--samples-a-frame", "3"],
        ["--subscribers", "0"],
        ["--processes", "2"],
    ],
    ids=" ".join,
)
async def test_a_replay_with_every_sample_rejected_is_not_complete(
    fleet: Path, wire: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeDaemon(Faults(reject=set(SERVERS))).running() as daemon:
        status, found = await replay(daemon, fleet, *wire)
    assert status == found["exit"] == Exit.NOTHING
    assert found["complete"] is False
    assert found["samples"]["rejected"] == ROWS
    last = capsys.readouterr().out.splitlines()[-1]
    assert "complete" not in last
    assert f"the daemon rejected every sample ({ROWS})" in last
    assert found["samples"]["first_rejections"] == {
        "sample_too_old": "server 'alpha' at time 1600000200: rejected on request"
    }
    assert any(note.startswith(f"{ROWS} rejected as sample_too_old; server 'alpha'") for note in found["notes"])


async def test_a_partly_rejected_fleet_is_complete_and_reports_the_rejections(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeDaemon(Faults(reject={"beta"})).running() as daemon:
        status, found = await replay(daemon, fleet)
    assert status == Exit.COMPLETE
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"; {STEPS} of {ROWS} samples were rejected")
    first = "server 'beta' at time 1600000200: rejected on request"
    assert f"{STEPS} rejected as sample_too_old; {first}" in found["notes"]


async def test_a_fleet_with_too_few_rows_verifies_no_forecast(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--limit-rows", str(NEED - 1)]
    async with FakeDaemon().running() as daemon:
        status, found = await replay(daemon, fleet, *short)
    assert (status, found["complete"]) == (Exit.NOTHING, False)
    assert f"no row was due: a window needs {NEED} rows" in capsys.readouterr().out.splitlines()[-1]
    async with FakeDaemon().running() as daemon:  # Without subscribers, the rows that the daemon keeps are verified.
        status, _ = await replay(daemon, fleet, *short, "--subscribers", "0")
    assert status == Exit.COMPLETE
    last = capsys.readouterr().out.splitlines()[-1]
    assert "6 samples accepted and kept; no subscriber, so no forecast was verified" in last


async def test_a_subscription_that_matches_no_server_verifies_nothing(fleet: Path) -> None:
    async with FakeDaemon().running() as daemon:
        status, found = await replay(daemon, fleet, "--glob", "delta*")
    assert status == Exit.NOTHING
    assert "no row was due of the servers that are subscribed to (delta*)" in found["notes"]


@pytest.mark.parametrize("more", [[], ["--subscribers", "0"], ["--limit-rows", "2"]], ids=" ".join)
async def test_a_daemon_that_acks_and_keeps_nothing_is_noticed(fleet: Path, more: list[str]) -> None:
    async with FakeDaemon(Faults(keep_nothing=True)).running() as daemon:
        status, found = await replay(daemon, fleet, *more)
    assert status == Exit.LOST
    assert found["faults"]["not_kept"] == found["samples"]["accepted"] > 0


async def test_failed_rows_are_a_fault_without_a_subscriber_too(fleet: Path) -> None:
    daemon = FakeDaemon()
    async with daemon.running():
        daemon.rows["failed"] = 0
        replaying = asyncio.create_task(replay(daemon, fleet, "--subscribers", "0"))
        while daemon.rows["closed"] < ROWS // 2:
            await asyncio.sleep(0)
        daemon.rows["failed"] = 2
        status, found = await replaying
    assert status == Exit.LOST
    assert found["faults"] == {"failed": 2}


async def test_an_ack_that_does_not_count_each_sample_is_not_an_ack(fleet: Path) -> None:
    async with FakeDaemon(Faults(ack_short=4)).running() as daemon:
        status, found = await replay(daemon, fleet)
    assert status == Exit.LOST
    assert found["faults"]["unreadable_answers"] == 1


async def test_rejections_that_an_ack_does_not_list_are_counted_and_are_not_accepted(fleet: Path) -> None:
    async with FakeDaemon(Faults(reject={"beta"}, listed_errors=1)).running() as daemon:
        status, found = await replay(daemon, fleet, "--samples-a-frame", "36", "--context-rows", "12")
    assert found["samples"]["rejected"] == STEPS
    assert found["samples"]["rejected_by_code"] == {"sample_too_old": 1, "untold": STEPS - 1}
    assert found["forecasts"]["missing"] == 0
    assert status == Exit.COMPLETE


async def test_a_file_without_a_row_to_send_is_not_complete(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, acked = tmp_path / "empty.csv", tmp_path / "acked.csv"
    async with FakeDaemon().running() as daemon:
        empty.write_text("server,time,cpu_user\n")
        assert (await replay(daemon, empty))[0] == Exit.USAGE
        empty.write_text("server,time,cpu_user\na,600,\n")
        assert (await replay(daemon, empty))[0] == Exit.NOTHING
        assert "no row has a value of cpu_user: there is nothing to send" in capsys.readouterr().err
        await replay(daemon, fleet, "--acked-list", str(acked))
        capsys.readouterr()
        assert (await replay(daemon, fleet, "--resume", str(acked)))[0] == Exit.NOTHING
        assert f"{acked} has every row: there is nothing to send" in capsys.readouterr().err
        acked.write_text("server,step,time\n")
        verify = ["replay", "--url", daemon.url, "--verify", str(acked)]
        assert await asyncio.to_thread(main, verify) == Exit.NOTHING
        acked.write_text("server,step,time\nalpha,7,2100\n")  # Long before the window.
        assert await asyncio.to_thread(main, verify) == Exit.NOTHING
    assert "nothing was verified" in capsys.readouterr().err
