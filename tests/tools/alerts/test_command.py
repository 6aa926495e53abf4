"""Tests `streamd/tools/alerts/*.py`: `streamd alerts` from its arguments to its report and exit status."""

import json
from pathlib import Path
from typing import Any

import pytest

from streamd.cli import main
from tests.support.small_version import NAME, make_fleet, make_version

CONFIG = """\
[windows]
min_context_rows = 8
[alerts.rules.busy]
target = "cpu"
above = 60.0
within = "15m"
min_rows = 10
labels = { team = "web" }
[alerts.rules.quiet]
target = "net"
below = 3.0
quantile = 0.9
for = 1
servers = ["s1", "s2"]
labels = { team = "web" }
"""


class Ran:
    """The result of one run."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a version, a fleet and settings."""
    path = tmp_path_factory.mktemp("alerts")
    make_version(path / "engines")
    make_fleet(path)
    (path / "config.toml").write_text(CONFIG)
    return path


@pytest.fixture
def alerts(capsys: pytest.CaptureFixture[str], folder: Path) -> Any:
    def run(command: str, *arguments: str | Path, config: Path | None = None) -> Ran:
        try:
            status = main(["alerts", command, "--config", str(config or folder / "config.toml"), *map(str, arguments)])
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Ran(status, *capsys.readouterr())

    return run


@pytest.fixture
def backtest(alerts: Any, folder: Path) -> Any:
    return lambda *arguments: alerts("backtest", "--fleet", folder / "fleet.csv", "--threads", "1", *arguments)


# ---------------------------------------------------------------- backtest
def test_a_backtest_prints_a_table_for_each_rule(backtest: Any) -> None:
    ran = backtest()
    assert ran.status == 0
    lines = ran.out.splitlines()
    # Three servers with rows in 120 steps: an origin for each step behind the first 24, and one behind the last.
    assert lines[0].startswith(f"291 forecasts of 3 servers by {NAME}, origins from 1970-01-04T13:20Z to ")
    assert "busy: cpu at or above 60 within 15 minutes, quantile 0.5, for 2; 3 servers" in lines
    assert "quiet: net at or below 3 within 20 minutes, quantile 0.9, for 1; 2 servers" in lines
    starts = [line.split("  ")[0] for line in lines]
    assert [starts.count(name) for name in ("forecast", "last value", "line over 1 h", "line over 4 h")] == [2] * 4


def test_json_has_what_the_text_has(backtest: Any) -> None:
    found = json.loads(backtest("--json", "--quiet").out)
    assert {key: found[key] for key in ("engine", "servers", "forecasts", "every")} == {
        "engine": NAME,
        "servers": 3,
        "forecasts": 291,
        "every": 1,
    }
    busy = found["groups"][0]
    last = busy["methods"]["last value"]
    assert last["caught"] + last["missed"] == last["incidents"] > 5
    assert last["right"] + last["wrong"] + last["undecided"] == last["alerts"] > 5
    assert 0 < last["share_firing"] < 1
    assert last["lead_seconds_p50"] < 0


def test_rules_of_one_label_share_a_table(backtest: Any) -> None:
    groups = json.loads(backtest("--json", "--quiet", "--by", "team").out)["groups"]
    assert [(group["name"], group["rules"], group["servers"]) for group in groups] == [("web", ["busy", "quiet"], 5)]


def test_origins_can_be_chosen(backtest: Any) -> None:
    found = json.loads(
        backtest(
            "--json", "--quiet", "--rule", "busy", "--from", "1970-01-04T14:00:00", "--to", "310800", "--every", 2
        ).out
    )
    assert (found["from"], found["to"]) == ("1970-01-04T14:00Z", "1970-01-04T14:15Z")
    assert found["forecasts"] == 3 * 2
    assert [group["name"] for group in found["groups"]] == ["busy"]


def test_columns_can_be_named(alerts: Any, folder: Path) -> None:
    fleet = folder / "renamed.csv"
    fleet.write_text((folder / "fleet.csv").read_text().replace("cpu", "percent_busy", 1))
    ran = alerts("backtest", "--fleet", fleet, "--map", "cpu=100*percent_busy", "--rule", "busy", "--json", "--quiet")
    assert json.loads(ran.out)["groups"][0]["methods"]["last value"]["share_firing"] > 0.5


def test_a_rule_without_values_is_left_out_and_named(alerts: Any, folder: Path) -> None:
    ran = alerts("backtest", "--fleet", folder / "fleet.csv", "--map", "cpu=cpu", "--every", "10")
    assert ran.status == 0
    assert "rule quiet: no server with values of net; left out" in ran.err
    ran = alerts("backtest", "--fleet", folder / "fleet.csv", "--map", "cpu=cpu", "--rule", "quiet", "--every", "10")
    assert ran.status == 1


def test_settings_without_rules_are_an_error(alerts: Any, folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "empty.toml"
    config.write_text(f'[engine]\nengines = "{folder}/engines"\n')
    ran = alerts("backtest", "--fleet", folder / "fleet.csv", config=config)
    assert ran.status == 2
    assert "empty.toml: has no rules, expected a table [alerts.rules.NAME]" in ran.err


def test_windows_that_are_too_short_for_any_forecast_are_an_error(alerts: Any, folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "many.toml"
    config.write_text(
        f'[engine]\nengines = "{folder}/engines"\n' + CONFIG.replace("min_context_rows = 8", "min_context_rows = 25")
    )
    ran = alerts("backtest", "--fleet", folder / "fleet.csv", config=config)
    assert ran.status == 2
    assert "no window of the fleet at these times has 25 rows" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "yesterday"), "--from is 'yesterday', expected epoch seconds or RFC 3339"),
        (("--from", "-1"), "--from is '-1', expected epoch seconds or RFC 3339, from 1970 on"),
        (("--from", "2030-01-01"), "no origin to forecast from: the fleet has rows from 1970-01-04T11:20Z"),
        (("--gap", "long"), "--gap is 'long', expected seconds, or a duration such as \"30m\""),
        (("--tolerance", "-5"), "--tolerance is '-5', expected seconds"),
        (("--map", "cpu"), "--map cpu: expected FEATURE=COLUMN"),
        (("--engine", "none"), "no engine version 'none'"),
        (("--rule", "full"), "--rule full: "),
        (("--every", "0"), "0: expected 1 or more"),
    ],
)
def test_a_wrong_option_is_named(backtest: Any, arguments: tuple[str, ...], message: str) -> None:
    flag, value = arguments
    ran = backtest(f"{flag}={value}")
    assert ran.status == 2
    assert message in ran.err
    assert not ran.out


# ---------------------------------------------------------------- check
def test_a_check_says_in_words_what_each_rule_means(alerts: Any) -> None:
    ran = alerts("check")
    assert ran.status == 0
    assert "busy (warning): cpu at or above 60 % within 15 minutes" in ran.out
    assert "fires: when the 0.5 quantile of 2 forecasts in a row crosses at most 15 minutes ahead" in ran.out
    assert "ends: when it stays below 58.8 % for all of that time in 2 forecasts in a row" in ran.out
    assert "delay: at a row every 5 minutes it takes 10 minutes to fire or to end" in ran.out
    assert (
        "silent: while a window has fewer than 10 rows (50 minutes), or no value of cpu in the newest 2 rows" in ran.out
    )
    assert "unknown: where no row of the window has a value of cpu; an alert that fires ends there" in ran.out
    assert "quiet (warning): net at or below 3 bytes/s within 20 minutes" in ran.out
    assert "servers: s1, s2" in ran.out
    assert "the 0.9 quantile of one forecast crosses" in ran.out
    assert "range: from the quantiles 0.1 (earliest), 0.5 (likely) and 0.9 (latest)" in ran.out


def test_a_check_gives_the_same_lines_as_json(alerts: Any) -> None:
    found = json.loads(alerts("check", "--json", "--rule", "busy").out)
    assert found["engine"] == NAME
    assert found["rules"]["busy"][0] == "busy (warning): cpu at or above 60 % within 15 minutes"


def test_a_check_of_a_wrong_rule_fails_and_names_it(alerts: Any, folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text(f'[engine]\nengines = "{folder}/engines"\n' + CONFIG.replace("quantile = 0.9", "quantile = 0.95"))
    ran = alerts("check", config=config)
    assert ran.status == 2
    assert "wrong.toml: alerts.rules.quiet.quantile: is 0.95, expected one of 0.1, 0.5, 0.9" in ran.err


def test_a_check_of_no_rules_says_so_by_its_status(alerts: Any, folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "empty.toml"
    config.write_text(f'[engine]\nengines = "{folder}/engines"\n')
    ran = alerts("check", config=config)
    assert ran.status == 1
    assert "0 rules" in ran.out
