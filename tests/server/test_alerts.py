"""Tests `streamd/server/daemon.py` with alert rules: a kill, a reload, and rules that do not fit the model."""

import signal
from pathlib import Path

from streamd.runtime.alerts.store import open_alert_store
from tests.support.daemon_process import NEED, make_small_settings, make_whole_rows, run_command
from tests.support.tiny_version import SHIPPED_CONTRACT
from tests.support.version_calls import StartDaemon

HEADERS = {"Authorization": "Bearer of-the-test"}
RULE = """
[server]
admin_token = "of-the-test"
[alerts]
max_forecast_age_seconds = inf
[alerts.rules.always]
target = "{target}"
above = -1e9
for = 1
min_rows = 1
"""


def test_alerts_survive_kill_9_and_end_with_their_rule(start: StartDaemon, tmp_path: Path) -> None:
    config, state = tmp_path / "config.toml", tmp_path / "state"
    config.write_text(RULE.format(target="cpu_user"), encoding="utf-8")
    first = start(state, "--config", str(config))
    first.wait_for("ready")
    first.call("POST", "/v1/samples", {"samples": make_whole_rows("web-01", range(NEED), SHIPPED_CONTRACT.features)})
    assert first.wait_for("alerts_fired")["count"] == 1
    wanted = {"servers": ["web-*"], "seconds": 3_600, "why": "a test"}
    status, begun = first.call("POST", "/v1/silences", wanted, **HEADERS)
    first.signal(signal.SIGKILL)
    assert status == 201
    first.wait()
    store = open_alert_store(state)
    (fired,) = store.read_active()
    store.close()
    second = start(state, "--config", str(config))
    second.wait_for("ready")
    status = second.get("/v1/status")[1]["alerts"]
    assert (status["rules"], status["firing"], status["silences"]) == (1, 1, 1)
    assert second.get("/v1/silences") == (200, {"silences": [begun["silence"]]})
    (alert,) = second.get("/v1/alerts")[1]["alerts"]
    assert alert["silenced_until"] == begun["silence"]["ends_at"]
    # 2. Rules that do not fit the model change nothing; a reload without the rule ends its alerts.
    config.write_text(RULE.format(target="nothing"), encoding="utf-8")
    second.signal(signal.SIGHUP)
    assert "alerts.rules.always.target: is 'nothing'" in second.wait_for("alert_rules_refused")["reason"]
    config.write_text(RULE.partition("[alerts.rules")[0], encoding="utf-8")
    second.signal(signal.SIGHUP)
    ended = second.wait_for("alerts_resolved")
    assert ended["alerts"] == [{"rule": "always", "server": "web-01", "reason": "rule_changed"}]
    assert "settings_need_restart" not in [line["event"] for line in second.lines]
    second.signal(signal.SIGTERM)
    assert second.wait() == 0
    store = open_alert_store(state)
    assert [alert.starts_at for alert in store.read_resolved()] == [fired.alert.starts_at]
    store.close()


def test_a_rule_that_does_not_fit_the_model_stops_the_start(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(RULE.format(target="nothing"), encoding="utf-8")
    arguments = ("serve", "--config", str(config), "--state-dir", str(tmp_path / "state"))
    ended = run_command(*arguments, cwd=tmp_path, **make_small_settings())
    assert ended.returncode != 0
    assert "alerts.rules.always.target: is 'nothing', expected one of cpu_user" in ended.stderr
    assert not (tmp_path / "state").exists()
