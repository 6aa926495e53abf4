"""Tests `streamd/server/version_control/control.py` on damaged versions: the serving one stays, others are reported."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamd.repository.record import PromotionRecord, read_promotion_record, write_promotion_record
from tests.support.daemon_process import DaemonProcess, run_command
from tests.support.made_versions import digest, pin
from tests.support.served_versions import CALENDAR, SETTINGS, WINDOW, make_both, make_version
from tests.support.version_calls import StartDaemon, predict, promote, read_serving, roll_back, start_ready

LATER = "later_20260103_000000"


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """The folder of two versions whose graphs are recorded with their SHA-256; the older one is the default."""
    root = make_both(tmp_path / "engines")
    for name in (CALENDAR, WINDOW):
        pin_graph(root / name)
    manifest = json.loads((root / CALENDAR / "config.json").read_text())
    (root / CALENDAR / "config.json").write_text(json.dumps({**manifest, "default": True}))
    return root


def pin_graph(path: Path) -> None:
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


def reload(daemon: DaemonProcess) -> dict[str, Any]:
    """Send SIGHUP and wait until the reload has ended; returns `reload` of the status."""
    before = daemon.get("/v1/status")[1]["reload"]["when"]
    daemon.signal(signal.SIGHUP)
    while (shown := daemon.get("/v1/status")[1]["reload"])["when"] == before or shown["state"] == "loading":
        pass
    assert isinstance(shown, dict)
    return shown


DAMAGES = {
    "a bit of the graph": (damage_graph, "model.onnx: changed"),
    "the manifest": (damage_manifest, "config.json"),
    "the graph is removed": (remove_graph, "has no model.onnx"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("promoted", [False, True])
def test_a_damaged_version_serves_until_a_restart_and_the_next_best_then_reports_why(
    start: StartDaemon, tmp_path: Path, engines: Path, damage: str, promoted: bool
) -> None:
    apply_damage, reason = DAMAGES[damage]
    if promoted:
        write_promotion_record(engines, PromotionRecord(CALENDAR))
    daemon = start_ready(start, tmp_path)
    assert daemon.get("/readyz") == (200, {"status": "ready"})
    assert read_serving(daemon) == CALENDAR
    apply_damage(engines)
    for _ in range(2):  # a second reload has the same result
        result = reload(daemon)
        assert result["state"] == "failed"
        assert reason in result["error"]
        assert CALENDAR in result["error"]
        assert read_serving(daemon) == predict(daemon) == CALENDAR
        assert daemon.get("/readyz") == (200, {"status": "ready"})
    assert daemon.get("/v1/status")[1]["passed_over"] == []
    # 2. After a restart it cannot serve. Another version does, and each report says so.
    daemon.end()
    again = start_ready(start, tmp_path)
    assert read_serving(again) == predict(again) == WINDOW
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
    # 3. The promotion of a sound version ends these reports.
    assert promote(again, WINDOW)[0] == 200
    assert again.get("/readyz")[1] == {"status": "ready"}


def test_a_version_that_is_repaired_serves_again(start: StartDaemon, tmp_path: Path, engines: Path) -> None:
    damage_graph(engines)
    daemon = start_ready(start, tmp_path)
    assert read_serving(daemon) == WINDOW
    damage_graph(engines)  # the same bit again
    assert reload(daemon)["error"] is None
    assert read_serving(daemon) == predict(daemon) == CALENDAR
    assert daemon.get("/readyz")[1] == {"status": "ready"}


def test_a_damaged_newer_version_is_reported_and_does_not_block_another(start: StartDaemon, tmp_path: Path) -> None:
    root = make_both(tmp_path / "engines")  # neither is the default
    daemon = start_ready(start, tmp_path)
    assert read_serving(daemon) == WINDOW
    # 1. An incomplete copy: the serving version stays, and the copy is named.
    half = make_version(root, "half_20260105_000000", "decoder_cont")
    (half / "model.onnx").unlink()
    result = reload(daemon)
    assert (result["state"], half.name in result["error"]) == ("serving", True)
    assert [each["name"] for each in daemon.get("/readyz")[1]["passed_over"]] == [half.name]
    # 2. Another version, older than the copy and newer than the serving one, is switched to.
    make_version(root, LATER, "decoder_cont")
    assert reload(daemon)["state"] == "serving"
    assert read_serving(daemon) == LATER
    # 3. The serving version stays when it is damaged, though it serves only as the newest.
    (root / LATER / "config.json").write_text("[]")
    result = reload(daemon)
    assert (result["state"], read_serving(daemon)) == ("failed", LATER)


def test_a_damaged_record_is_refused_on_reload_and_passed_over_at_start(
    start: StartDaemon, tmp_path: Path, engines: Path
) -> None:
    write_promotion_record(engines, PromotionRecord(WINDOW))
    daemon = start_ready(start, tmp_path)
    assert read_serving(daemon) == WINDOW
    (engines / "promoted.json").write_text('{"current": 5}')
    result = reload(daemon)
    assert (result["state"], read_serving(daemon)) == ("failed", WINDOW)
    assert "promoted.json" in result["error"]
    daemon.end()
    again = start_ready(start, tmp_path)
    assert read_serving(again) == CALENDAR, "the default"
    (missed,) = again.get("/readyz")[1]["passed_over"]
    assert (missed["name"], missed["rule"]) == ("promoted.json", "promoted")
    assert "remove it" in missed["reason"]


@pytest.mark.parametrize("setting", ["STREAMD_ENGINE", "STREAMD_ENSEMBLE"])
def test_a_version_that_the_settings_name_is_never_replaced(
    start: StartDaemon, tmp_path: Path, engines: Path, setting: str
) -> None:
    value = {"STREAMD_ENGINE": CALENDAR, "STREAMD_ENSEMBLE": f"{WINDOW},{CALENDAR}"}[setting]
    daemon = start_ready(start, tmp_path, **{setting: value})
    name = read_serving(daemon)
    damage_graph(engines)
    result = reload(daemon)
    assert (result["state"], read_serving(daemon)) == ("failed", name)
    assert f"{CALENDAR}/model.onnx: changed" in result["error"]
    daemon.end()
    env = {**SETTINGS, "STREAMD_ENGINES": str(engines), "STREAMD_STATE_DIR": str(tmp_path / "s"), setting: value}
    ended = run_command("serve", "--port", "0", cwd=tmp_path, **env)
    assert ended.returncode == 1
    assert f"{CALENDAR}/model.onnx: changed" in ended.stderr


def test_a_damaged_candidate_is_reported_until_it_begins(start: StartDaemon, tmp_path: Path, engines: Path) -> None:
    flip(engines / WINDOW / "model.onnx")
    daemon = start(
        tmp_path / "state",
        **{**SETTINGS, "STREAMD_ENGINES": str(engines), "STREAMD_CANDIDATE": WINDOW, "STREAMD_CANDIDATE_SHADOW": "1"},
    )
    daemon.wait_for("reload_failed")
    for _ in range(2):
        assert read_serving(daemon) == CALENDAR
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
def test_a_rollback_reports_the_versions_that_it_passes_over(
    start: StartDaemon, tmp_path: Path, engines: Path, damage: Callable[[Path], None]
) -> None:
    make_version(engines, LATER, "decoder_cont")
    daemon = start_ready(start, tmp_path, STREAMD_KEEP_WARM_SECONDS="0")
    for version in (WINDOW, CALENDAR, LATER):
        assert promote(daemon, version)[0] == 200
    damage(engines)
    status, answer = roll_back(daemon)
    assert (status, answer["engine"]) == (200, WINDOW)
    assert [each["name"] for each in answer["passed_over"]] == [CALENDAR]
    assert read_promotion_record(engines).history[-1].passed_over == (CALENDAR,)
    # 2. The next rollback would go to the default, which is the damaged version too; the newest one serves.
    status, answer = roll_back(daemon)
    assert (status, answer["engine"]) == (200, LATER)
    assert [each["name"] for each in answer["passed_over"]] == [CALENDAR]
    assert daemon.get("/readyz")[1]["passed_over"] == answer["passed_over"]
