"""Tests `streamd/tools/mapping/*.py`: `streamd mapping check` from its arguments to its report and exit status."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from streamd.cli import main
from streamd.tools.mapping.report import SHOWN_LENGTH, SHOWN_LINES, SHOWN_SERVERS

AGENTS = Path(__file__).parents[2] / "fixtures" / "agents"
SCRAPE = str(AGENTS / "node-exporter" / "scrape.body")
PCP = str(AGENTS / "pcp2json" / "default-stdout.body")


class Ran:
    """The result of one run."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str | Path) -> Ran:
        try:
            status = main(["mapping", "check", *map(str, arguments)])
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Ran(status, *capsys.readouterr())

    return run


# ---------------------------------------------------------------- what is reported
def test_a_report_says_what_each_series_becomes(check: Any) -> None:
    ran = check(PCP)
    assert ran.status == 0
    rows = [re.split(r"  +", line.strip()) for line in ran.out.splitlines()]
    assert ["server", "feature", "unit", "kind", "rule", "series"] in rows
    assert ["web-01", "cpu_user", "percent", "gauge", "pcp.cpu_user (denominator)", "hinv.ncpu"] in rows
    assert ["web-01", "load_average", "1", "gauge", "pcp.load_average", 'kernel.all.load{instance="1 minute"}'] in rows
    assert ["disk_usage", "33.3113", "percent", "2026-11-28 21:25:00", "pcp.disk_usage"] in rows
    assert ["java_cpu", "missing", "no rule gives it"] in rows
    assert ["swap_used", "missing", "pcp.swap_used: its denominator is 0"] in rows
    assert "ignored: 4 series with 10 points (not_selected)" in ran.out
    assert 'network.interface.in.bytes{instance="lo"}' in ran.out
    assert 'labels that all series have, left out below: host="web-01"' in ran.out


def test_json_has_all_that_the_text_has(check: Any) -> None:
    report = check("--json", SCRAPE).json
    assert report["files"] == [{"file": SCRAPE, "protocol": "scrape", "bytes": 34_679}]
    load = next(series for series in report["series"] if series["name"] == "node_load1")
    assert load == {
        "name": "node_load1",
        "labels": {"instance": "scrape"},
        "server": "scrape",
        "kind": "gauge",
        "points": 1,
        "feeds": [
            {"feature": "load_average", "unit": "1", "rule": "node_exporter.load_average", "parts": ["numerator"]}
        ],
    }
    features = report["servers"]["scrape"]
    assert features["load_average"]["value"] == 1.33
    assert features["load_average"]["unit"] == "1"
    assert features["load_average"]["rule"] == "node_exporter.load_average"
    assert features["cpu_user"] == {
        "missing": "node_exporter.cpu_user: needs two points of its counters, and the capture has one; add a later body"
    }
    ignored = {each["reason"]: each for each in report["ignored"]}
    assert ignored["no_rule"]["series"] == 241
    assert "go_goroutines" in ignored["no_rule"]["names"]
    assert report["rejected"] == {"points": {}, "errors": []}


def test_several_files_are_one_capture(check: Any, tmp_path: Path) -> None:
    name = 'node_network_receive_bytes_total{instance="a:1",device="eth0"}'
    (tmp_path / "0.txt").write_text(f"{name} 100 1795898400000\n")
    (tmp_path / "1.txt").write_text(f"{name} 400 1795898410000\n")
    report = check("--json", tmp_path / "0.txt", tmp_path / "1.txt").json
    assert report["servers"]["a"]["net_in"]["value"] == 30.0


def test_rejected_and_skipped_points_are_told(check: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.body"
    file.write_text('cpu,hostname=a user=1,text="x"\ncpu,hostname=a user=x\n')
    ran = check("--protocol", "line_protocol", file)
    assert ran.status == 0
    assert "skipped, since they are no measurement: 1 of text value" in ran.out
    assert "rejected: 1 points\n  line 2:" in ran.out


def test_series_without_a_server_are_told_with_the_labels_that_would_name_one(check: Any) -> None:
    ran = check(AGENTS / "opentelemetry" / "no-host-name.body")
    assert ran.status == 1
    assert "(no_server): they have no label that names a server (" in ran.out
    assert "opentelemetry: host.name" in ran.out


def test_captured_text_cannot_control_the_terminal(check: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.body"
    file.write_bytes(b"cpu,hostname=a\x1b[2J user=1\nother\x1b]0;x\x07,hostname=b n=1\n")
    ran = check("--protocol", "line_protocol", file)
    assert ran.status == 0
    assert "\x1b" not in ran.out
    assert "\x07" not in ran.out
    assert "a\\x1b[2J" in ran.out


def test_long_tables_are_cut_unless_all_is_requested(check: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.body"
    servers = SHOWN_LINES + 5
    file.write_text("".join(f"cpu,hostname=web-{number} user=1\n" for number in range(servers)))
    ran = check("--protocol", "line_protocol", file)
    assert ran.out.count("glances.cpu_user  cpu_user{") == SHOWN_LINES
    assert "and more (--all)" in ran.out
    assert ran.out.count("features of ") == SHOWN_SERVERS
    assert f"and {servers - SHOWN_SERVERS} more servers (--all)" in ran.out
    whole = check("--all", "--protocol", "line_protocol", file).out
    assert whole.count("glances.cpu_user  cpu_user{") == servers
    assert whole.count("features of ") == servers
    assert "(--all)" not in whole


def test_a_series_with_long_labels_is_cut(check: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.body"
    file.write_text(f"cpu,hostname=a,x={'y' * 1_000} user=1\ncpu,hostname=a user=1\n")
    ran = check("--protocol", "line_protocol", file)
    assert ran.status == 0
    assert max(map(len, ran.out.splitlines())) < SHOWN_LENGTH + 80


# ---------------------------------------------------------------- settings
def write_config(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text)
    return file


def test_the_rules_are_those_of_the_settings(check: Any, tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        '[server]\nport = 1\n[mapping]\nrule_sets = ["pcp"]\n[mapping.pcp.uptime]\nenabled = false\n'
        '[mapping.mine]\nserver = ["host"]\n[mapping.mine.java_cpu]\nmetric = "kernel.all.load"\n',
    )
    report = check("--json", "--config", config, PCP).json
    features = report["servers"]["web-01"]
    assert features["java_cpu"]["rule"] == "mine.java_cpu"
    assert features["uptime"] == {"missing": "no rule gives it"}
    assert features["load_average"]["rule"] == "pcp.load_average"
    assert check("--config", config, SCRAPE).status == 1


def test_a_rule_may_give_the_status_of_a_row(check: Any, tmp_path: Path) -> None:
    rule = '[mapping.mine]\nserver = ["host"]\n[mapping.mine.status]\nmetric = "hinv.ncpu"\nkind = "state"\n'
    features = check("--json", "--config", write_config(tmp_path, rule), PCP).json["servers"]["web-01"]
    assert features["status"]["value"] == 2.0
    assert features["status"]["unit"] == "0 to 15"
    assert "status" not in check("--json", PCP).json["servers"]["web-01"]


def test_a_file_without_a_section_gives_the_built_in_rules(check: Any, tmp_path: Path) -> None:
    assert check("--config", write_config(tmp_path, "[log]\n"), PCP).out == check(PCP).out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mapping]\nrule_set = 1", "mapping.rule_set: there is no such setting"),
        ("mapping = 1", "mapping is a value, expected a section"),
        ("[mapping", "config.toml: "),
        ('[mapping.pcp.uptime]\nmetrc = "x"', "mapping.pcp.uptime: Object contains unknown field `metrc`"),
        (
            '[mapping.x]\nserver = ["a"]\n[mapping.x.uptime]\nmetric = "a"\nwhere = { b = [] }',
            "a list of patterns is empty",
        ),
    ],
)
def test_wrong_settings_are_wrong_usage(check: Any, tmp_path: Path, text: str, message: str) -> None:
    ran = check("--config", write_config(tmp_path, text), PCP)
    assert ran.status == 2
    assert ran.out == ""
    assert message in ran.err


# ---------------------------------------------------------------- exit status
def test_nothing_mapped_is_status_1(check: Any) -> None:
    ran = check(AGENTS / "netdata-json-average" / "empty.body", AGENTS / "prometheus" / "metadata.body")
    assert ran.status == 1
    assert "series that are used: 0 of 0" in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.body"], "missing.body: cannot be read: No such file or directory"),
        ([], "the following arguments are required: FILE"),
        (["--protocol", "smoke", PCP], "--protocol smoke: expected one of remote_write, line_protocol, otlp"),
        (["--protocol", "otlp", PCP], r"default-stdout.body: "),
        (["--config", "missing.toml", PCP], "missing.toml: cannot be read: No such file or directory"),
    ],
)
def test_wrong_usage_is_status_2_and_prints_no_report(check: Any, arguments: list[str], message: str) -> None:
    ran = check(*arguments)
    assert ran.status == 2
    assert ran.out == ""
    assert message in ran.err
