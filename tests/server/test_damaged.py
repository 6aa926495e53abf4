"""A version that is damaged on disk: what serves stays, and a daemon that starts says what it passed over and why."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamd.repository.record import Record, read_record, write_record
from tests.server.conftest import Start
from tests.server.version_control.test_control import ROLLBACK, begin, predict, promote, served
from tests.support.daemon_process import DaemonProcess, run
from tests.support.made_versions import digest, pin
from tests.support.served_versions import AUTHORIZED, CALENDAR, SETTINGS, WINDOW, make_both, make_version

LATER = "later_20260103_000000"


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """Two versions whose graphs are listed with their SHA-256; the older is the default."""
    root = make_both(tmp_path / "engines")
    for name in (CALENDAR, WINDOW):
        list_graph(root / name)
    manifest = json.loads((root / CALENDAR / "config.json").read_text())
    (root / CALENDAR / "config.json").write_text(json.dumps({**manifest, "default": True}))
    return root


def list_graph(path: Path) -> None:
    pin(path, {"model.onnx": digest(path / "model.onnx")})


def flip(path: Path) -> None:
    """Change a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_graph(root: Path) -> None:
    flip(root / CALENDAR / "model.onnx")


def remove_graph(root: Path) -> None:
    (root / CALENDAR / "model.onnx").unlink()


def damage_manifest(root: Path) -> None:
    (root / CALENDAR / "config.json").write_text("{")


def reloaded(daemon: DaemonProcess) -> dict[str, Any]:
    """Send SIGHUP and wait for what comes of it; the reload as the status has it."""
    before = daemon.get("/v1/status")[1]["reload"]["when"]
    daemon.signal(signal.SIGHUP)
    while (said := daemon.get("/v1/status")[1]["reload"])["when"] == before or said["state"] == "loading":
        pass
    assert isinstance(said, dict)
    return said


DAMAGES = {
    "a bit of the graph": (damage_graph, "model.onnx: changed"),
    "the manifest": (damage_manifest, "config.json"),
    "the graph is gone": (remove_graph, "has no model.onnx"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("promoted", [False, True])
def test_a_damaged_version_goes_on_serving_and_after_a_restart_the_next_best_says_why(
    start: Start, tmp_path: Path, engines: Path, damage: str, promoted: bool
) -> None:
    do, reason = DAMAGES[damage]
    if promoted:
        write_record(engines, Record(CALENDAR))
    daemon = begin(start, tmp_path)
    assert daemon.get("/readyz") == (200, {"status": "ready"})
    assert served(daemon) == CALENDAR
    do(engines)
    for _ in range(2):  # the second time no other than the first
        told = reloaded(daemon)
        assert told["state"] == "failed"
        assert reason in told["error"]
        assert CALENDAR in told["error"]
        assert served(daemon) == predict(daemon) == CALENDAR
        assert daemon.get("/readyz") == (200, {"status": "ready"})
    assert daemon.get("/v1/status")[1]["passed_over"] == []
    # 2. At a start it cannot serve: another one does, and says so wherever one looks.
    daemon.end()
    again = begin(start, tmp_path)
    assert served(again) == predict(again) == WINDOW
    status, body = again.get("/readyz")
    assert (status, body["status"]) == (200, "ready")
    (missed,) = body["passed_over"]
    assert missed["name"] == CALENDAR
    assert reason in missed["reason"]
    if damage != "the manifest" or promoted:
        assert missed["rule"] == ("promoted" if promoted else "default")
    shown = again.get("/v1/status")[1]
    assert shown["passed_over"] == body["passed_over"]
    assert (shown["reload"]["state"], reason in shown["reload"]["error"]) == ("serving", True)
    (line,) = [each for each in again.lines if each["event"] == "version_passed_over"]
    assert (line["level"], line["version"], line["serving"]) == ("warning", CALENDAR, WINDOW)
    assert reason in line["reason"]
    assert "streamd_versions_passed_over 1.0" in again.get("/metrics")[1]
    # 3. A promotion of what is sound ends it.
    assert promote(again, WINDOW)[0] == 200
    assert again.get("/readyz")[1] == {"status": "ready"}


def test_a_version_that_is_mended_serves_again(start: Start, tmp_path: Path, engines: Path) -> None:
    damage_graph(engines)
    daemon = begin(start, tmp_path)
    assert served(daemon) == WINDOW
    damage_graph(engines)  # the same bit again
    assert reloaded(daemon)["error"] is None
    assert served(daemon) == predict(daemon) == CALENDAR
    assert daemon.get("/readyz")[1] == {"status": "ready"}


def test_a_newer_version_that_is_damaged_is_told_and_holds_up_no_other(start: Start, tmp_path: Path) -> None:
    root = make_both(tmp_path / "engines")  # none is the default
    daemon = begin(start, tmp_path)
    assert served(daemon) == WINDOW
    # 1. A copy that is not whole: what serves stays, and the copy is named.
    half = make_version(root, "half_20260105_000000", "decoder_cont")
    (half / "model.onnx").unlink()
    told = reloaded(daemon)
    assert (told["state"], half.name in told["error"]) == ("serving", True)
    assert [each["name"] for each in daemon.get("/readyz")[1]["passed_over"]] == [half.name]
    # 2. Beside it another one, older than the copy and newer than what serves, is taken.
    make_version(root, LATER, "decoder_cont")
    assert reloaded(daemon)["state"] == "serving"
    assert served(daemon) == LATER
    # 3. What serves, damaged, stays though it is only the newest.
    (root / LATER / "config.json").write_text("[]")
    told = reloaded(daemon)
    assert (told["state"], served(daemon)) == ("failed", LATER)


def test_a_damaged_record_of_promotions(start: Start, tmp_path: Path, engines: Path) -> None:
    write_record(engines, Record(WINDOW))
    daemon = begin(start, tmp_path)
    assert served(daemon) == WINDOW
    (engines / "promoted.json").write_text('{"current": 5}')
    told = reloaded(daemon)
    assert (told["state"], served(daemon)) == ("failed", WINDOW)
    assert "promoted.json" in told["error"]
    daemon.end()
    again = begin(start, tmp_path)
    assert served(again) == CALENDAR, "the default"
    (missed,) = again.get("/readyz")[1]["passed_over"]
    assert (missed["name"], missed["rule"]) == ("promoted.json", "promoted")
    assert "remove it" in missed["reason"]


@pytest.mark.parametrize("setting", ["STREAMD_ENGINE", "STREAMD_ENSEMBLE"])
def test_what_the_settings_name_is_never_replaced(start: Start, tmp_path: Path, engines: Path, setting: str) -> None:
    value = {"STREAMD_ENGINE": CALENDAR, "STREAMD_ENSEMBLE": f"{WINDOW},{CALENDAR}"}[setting]
    daemon = begin(start, tmp_path, **{setting: value})
    name = served(daemon)
    damage_graph(engines)
    told = reloaded(daemon)
    assert (told["state"], served(daemon)) == ("failed", name)
    assert f"{CALENDAR}/model.onnx: changed" in told["error"]
    daemon.end()
    env = {**SETTINGS, "STREAMD_ENGINES": str(engines), "STREAMD_STATE_DIR": str(tmp_path / "s"), setting: value}
    ended = run("serve", "--port", "0", cwd=tmp_path, **env)
    assert ended.returncode == 1
    assert f"{CALENDAR}/model.onnx: changed" in ended.stderr


def test_a_damaged_candidate_is_told_until_its_trial_begins(start: Start, tmp_path: Path, engines: Path) -> None:
    flip(engines / WINDOW / "model.onnx")
    daemon = start(
        tmp_path / "state",
        **{**SETTINGS, "STREAMD_ENGINES": str(engines), "STREAMD_CANDIDATE": WINDOW, "STREAMD_CANDIDATE_SHADOW": "1"},
    )
    daemon.wait_for("reload_failed")
    for _ in range(2):
        assert served(daemon) == CALENDAR
        (missed,) = daemon.get("/readyz")[1]["passed_over"]
        assert (missed["name"], missed["rule"]) == (WINDOW, "candidate")
        assert "model.onnx: changed" in missed["reason"]
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("reload_failed")
    flip(engines / WINDOW / "model.onnx")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("candidate_begun")
    assert daemon.get("/v1/status")[1]["candidate"]["version"] == WINDOW
    assert daemon.get("/readyz")[1] == {"status": "ready"}


@pytest.mark.parametrize("damage", [damage_graph, damage_manifest])
def test_a_rollback_says_what_it_passes_over(
    start: Start, tmp_path: Path, engines: Path, damage: Callable[[Path], None]
) -> None:
    make_version(engines, LATER, "decoder_cont")
    daemon = begin(start, tmp_path, STREAMD_KEEP_WARM_SECONDS="0")
    for version in (WINDOW, CALENDAR, LATER):
        assert promote(daemon, version)[0] == 200
    damage(engines)
    status, told = daemon.call("POST", ROLLBACK, **AUTHORIZED)
    assert (status, told["engine"]) == (200, WINDOW)
    assert [each["name"] for each in told["passed_over"]] == [CALENDAR]
    assert read_record(engines).history[-1].passed_over == (CALENDAR,)
    # 2. Below the last promotion lies the default, which is damaged too.
    status, told = daemon.call("POST", ROLLBACK, **AUTHORIZED)
    assert (status, told["engine"]) == (200, LATER)
    assert [each["name"] for each in told["passed_over"]] == [CALENDAR]
    assert daemon.get("/readyz")[1]["passed_over"] == told["passed_over"]
