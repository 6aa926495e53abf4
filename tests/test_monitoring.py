"""Tests `monitoring` and `docs/runbook`: rules that Prometheus takes, over metrics that exist, each with a page.

What needs promtool (Debian package `prometheus`) is skipped without it.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster_parts import make_unjoined_part
from tests.support.document_tables import read, read_table
from tests.support.http_harness import HttpDaemonSettings, make_rows, run_http_daemon

ROOT = Path(__file__).parents[1]
RULES = "monitoring/alerts.yml"
HEADINGS = ["## Meaning", "## Impact", "## Check", "## Remedy"]
OF_PROMETHEUS = {"up"}
"""Metrics that Prometheus itself makes."""

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def read_alerts() -> dict[str, str]:
    """Return the text of each rule by the name of its alert."""
    parts = re.split(r"^ {6}- alert: (\w+)\n", read(RULES), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def find_metrics(rules: str) -> set[str]:
    """Return the metrics that rules name: words that begin like those of the daemon, outside of texts."""
    return set(re.findall(r"\b(?:streamd_\w+|up(?=\{))", re.sub(r'"[^"]*"', "", rules)))


def run_promtool(*arguments: str, stdin: str = "", cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["promtool", *arguments], cwd=cwd, input=stdin, capture_output=True, text=True, check=False)


async def read_node_exposition(folder: Path) -> str:
    """Return the metrics of a node of a cluster."""
    async with run_http_daemon(folder / "node", HttpDaemonSettings(cluster=make_unjoined_part())) as daemon:
        return (await daemon.call("GET", "/metrics")).data.decode()


async def read_exposition(folder: Path) -> str:
    """Return the metrics of a daemon that has forecast."""
    async with run_http_daemon(folder / "alone", HttpDaemonSettings()) as daemon:
        await daemon.accept(make_rows("web-01", 1, range(5)))
        await daemon.service.pipeline.wait_idle()
        return (await daemon.call("GET", "/metrics")).data.decode()


async def test_alerts_are_over_metrics_that_exist(tmp_path: Path) -> None:
    exposition = await read_exposition(tmp_path) + await read_node_exposition(tmp_path)
    known = set(re.findall(r"^# TYPE (\w+)", exposition, re.MULTILINE)) | OF_PROMETHEUS
    known |= {f"{name}_bucket" for name in re.findall(r"^# TYPE (\w+) histogram", exposition, re.MULTILINE)}
    assert find_metrics("expr: streamd_steady == 0") - known == {"streamd_steady"}
    assert len(find_metrics(read(RULES))) > 15
    assert find_metrics(read(RULES)) - known == set()


def test_each_alert_has_a_page_and_a_test() -> None:
    alerts = read_alerts()
    assert len(alerts) > 15
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs/runbook").glob("Streamd*.md")}
    assert set(pages) == set(alerts)
    for name, text in pages.items():
        assert text.startswith(f"# {name}\n")
        assert re.findall(r"^## .*$", text, re.MULTILINE) == HEADINGS
        assert all(len(part.split()) > 5 for part in re.split(r"^## ", text, flags=re.MULTILINE))
        assert f"runbook: docs/runbook/{name}.md" in alerts[name]
    tested = set(re.findall(r"^ +- alertname: (\w+)$", read("monitoring/alerts_test.yml"), re.MULTILINE))
    assert tested == set(alerts)
    expected_silent = set(re.findall(r"alertname: (\w+), .* exp_alerts: \[\]", read("monitoring/alerts_test.yml")))
    assert expected_silent == set(alerts)


def test_the_index_of_the_runbook_says_what_the_rules_say() -> None:
    listed = {
        re.findall(r"\w+", row["alert"])[0]: (row["severity"], row["summary"])
        for row in read_table(read("docs/runbook/README.md"), "alert", "severity", "summary")
    }
    rules = {
        name: (re.findall(r"severity: (\w+)", rule)[0], re.findall(r'summary: "(.*)"', rule)[0])
        for name, rule in read_alerts().items()
    }
    assert listed == rules
    assert {severity for severity, _ in rules.values()} == {"page", "ticket", "info"}


@needs_promtool
def test_promtool_takes_the_rules_and_their_tests(tmp_path: Path) -> None:
    for name in ("alerts.yml", "alerts_test.yml"):
        shutil.copyfile(ROOT / "monitoring" / name, tmp_path / name)
    tested = run_promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    # The tests can fail: an alert that fires while all is as it should be.
    broken = read(RULES).replace("streamd_fallbacks > 0", "streamd_fallbacks >= 0")
    assert broken != read(RULES)
    (tmp_path / "alerts.yml").write_text(broken, encoding="utf-8")
    healthy, _, _ = read("monitoring/alerts_test.yml").partition("  - name: StreamdDown\n")
    (tmp_path / "alerts_test.yml").write_text(healthy, encoding="utf-8")
    assert run_promtool("test", "rules", "alerts_test.yml", cwd=tmp_path).returncode == 1


@needs_promtool
async def test_promtool_finds_nothing_to_complain_of_in_the_metrics(tmp_path: Path) -> None:
    for exposition in (await read_exposition(tmp_path), await read_node_exposition(tmp_path)):
        checked = run_promtool("check", "metrics", stdin=exposition)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert run_promtool("check", "metrics", stdin="# TYPE streamd_rows counter\nstreamd_rows 1\n").returncode == 3
