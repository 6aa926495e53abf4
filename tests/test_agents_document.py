"""Tests `docs/agents.md` against the code: which agent gives which feature, names, keys, paths, and its configurations.

Each guard is a function that returns what is wrong; it is tried on a broken copy first.
"""

import configparser
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from streamd.core.aggregation.points import MAX_SERIES_OF_SERVER, MIN_RETAINED_SECONDS, MIN_RETAINED_STEPS
from streamd.core.mapping.mapping import RuleMapping
from streamd.core.mapping.rules import MappingRule, RuleSet
from streamd.core.mapping.series import Kind
from streamd.rule_sets import MappingSettings, list_rule_sets, load_rule_set, load_rule_sets, parse_mapping_settings
from streamd.tools.mapping.check import check_captures
from streamd.tools.mapping.checked import FeatureValue
from streamd.tools.networks.contract import FEATURE_UNITS, NetworkContract
from tests.support.agent_fixtures import AGENTS
from tests.support.document_tables import code_spans, read, read_table
from tests.support.http_harness import HttpDaemonSettings, run_http_daemon

DOCUMENT = "docs/agents.md"

RULE_SET_OF_AGENT = {
    "node_exporter": "node_exporter",
    "OpenTelemetry Python": "opentelemetry",
    "OpenTelemetry Collector": "opentelemetry",
    "Telegraf": "telegraf",
    "collectd": "collectd",
    "netdata": "netdata",
    "glances": "glances",
    "PCP": "pcp",
}
"""The columns of the table of features."""

CAPTURES = {
    "node_exporter": ("prometheus/samples", "vmagent/samples"),
    "OpenTelemetry Python": ("opentelemetry/first-zero-utilization", "opentelemetry/second"),
    "collectd": ("collectd/rates-1", "collectd/rates-2", "collectd/rates-3"),
    "netdata": ("netdata-json-average/average-1", "netdata-json-average/average-2"),
    "glances": ("glances-influxdb2/lines-1", "glances-influxdb2/lines-2"),
    "PCP": ("pcp2json/default-stdout", "pcp2influxdb/first", "pcp2influxdb/next"),
}
"""What these agents were seen to send; Telegraf and the Collector were not."""

WHOLE_CAPTURES = {
    "OpenTelemetry Python": {"cpu_iowait"},  # the capture is of the default configuration
    "collectd": {"swap_used"},  # the host had no swap
    "netdata": set(),
    "glances": set(),
}
"""Captures of all that a configuration sends, and the features that are missing from them for another reason."""

Found = list[str]
"""What is wrong with the document, one sentence each."""


def check(guard: Callable[[str], Found], *broken: tuple[str, str]) -> None:
    """Check that a guard finds each `(old, new)` replacement in the document, and then nothing in it."""
    text = read(DOCUMENT)
    assert broken
    for old, new in broken:
        assert old in text, f"{old!r} is not in the document, so it cannot be broken"
        assert guard(text.replace(old, new, 1)), f"the guard does not notice {old!r} -> {new!r}"
    assert guard(text) == []


def compare(what: str, documented: Iterable[object], known: Iterable[object]) -> Found:
    listed, code = set(documented), set(known)
    return [
        *(f"{what} {each}: not in the document" for each in sorted(map(str, code - listed))),
        *(f"{what} {each}: not in the code" for each in sorted(map(str, listed - code))),
    ]


def bare(cell: str) -> str:
    return cell.strip("`")


def blocks_named(text: str, name: str) -> list[str]:
    """Return the fenced blocks whose first line is a comment with this file name."""
    return re.findall(rf"^```\w*\n((?:#|//) {re.escape(name)}\n.*?)^```", text, re.MULTILINE | re.DOTALL)


def block_named(text: str, name: str) -> str:
    (block,) = blocks_named(text, name)
    return str(block)


def list_metrics(rule_set: RuleSet) -> set[str]:
    """Return the names of series that a rule set wants, globs included."""
    terms = [
        term
        for rule in rule_set.rules.values()
        for term in (*rule.list_numerator(), *rule.denominator, *([rule.zero_when] if rule.zero_when else []))
    ]
    return {name for term in terms for name in ([term.metric] if isinstance(term.metric, str) else term.metric)}


# ---------------------------------------------------------------- features
def documented_features(text: str) -> dict[str, set[str]]:
    """Return the features that each agent gives by the table; a cell that is neither yes nor no fails."""
    given: dict[str, set[str]] = {}
    for row in read_table(text, "feature", "node_exporter"):
        for agent, cell in list(row.items())[1:]:
            assert cell in ("yes", "no"), cell
            given.setdefault(agent, set()).update([bare(row["feature"])] if cell == "yes" else [])
    return given


def find_wrong_features(text: str) -> Found:
    """Compare the table with the rules: the agents of a rule set give what it has rules for, and no other feature."""
    rows = read_table(text, "feature", "node_exporter")
    found = compare("feature", (bare(row["feature"]) for row in rows), FEATURE_UNITS)
    given = documented_features(text)
    found += compare("agent", given, RULE_SET_OF_AGENT)
    for name in list_rule_sets():
        rules = load_rule_set(name).rules
        known = {rule.feature or key for key, rule in rules.items() if rule.enabled}
        documented = [given.get(agent, set()) for agent, rule_set in RULE_SET_OF_AGENT.items() if rule_set == name]
        found += compare(f"feature of {name}", set().union(*documented), known)
    return found


def test_the_features_are_those_of_the_rule_sets() -> None:
    row = "| `swap_used` | yes | yes | yes | yes | yes | no | yes | yes |\n"
    check(
        find_wrong_features,
        (row, ""),
        (row, row.replace("| no |", "| yes |")),
        (row, row.replace("swap_used", "swap_free")),
        ("| `java_cpu` | no |", "| `java_cpu` | yes |"),
        ("| Telegraf | collectd |", "| Telegram | collectd |"),
    )


def captured_features(captures: Iterable[str]) -> set[str]:
    """Return the features that any server of these captures has, by the ready-made rules."""
    report = check_captures(
        [AGENTS / f"{capture}.body" for capture in captures],
        settings=MappingSettings(),
        format_name=None,
        now=1_795_900_200.0,
    )
    return {
        feature
        for server in report.sink.servers.values()
        for feature, value in report.list_features(server)
        if isinstance(value, FeatureValue)
    }


@pytest.mark.parametrize("agent", CAPTURES)
def test_an_agent_gives_what_it_was_seen_to_send(agent: str) -> None:
    given, seen = documented_features(read(DOCUMENT))[agent], captured_features(CAPTURES[agent])
    assert seen
    assert seen - given == set()
    if agent in WHOLE_CAPTURES:
        assert given - seen == WHOLE_CAPTURES[agent]


# ---------------------------------------------------------------- names, rules, status, limits
def find_wrong_servers(text: str) -> Found:
    rows = read_table(text, "rule set", "labels", "port removed")
    documented = [(bare(row["rule set"]), *code_spans(row["labels"]), row["port removed"]) for row in rows]
    rule_sets = [load_rule_set(name) for name in list_rule_sets()]
    known = [(each.name, *each.server, "yes" if each.strip_port else "no") for each in rule_sets]
    return compare("rule set", documented, known)


def test_the_labels_that_name_servers_are_those_of_the_rule_sets() -> None:
    row = "| `opentelemetry` | `host.name` | no |\n"
    check(
        find_wrong_servers,
        (row, ""),
        (row, row.replace("host.name", "host")),
        (row, row.replace("no", "yes")),
        ("| `glances` | `server`, `hostname` |", "| `glances` | `hostname`, `server` |"),
    )


def find_wrong_rule_keys(text: str) -> Found:
    rows = read_table(text, "key of a rule", "default", "meaning")
    documented = [key for row in rows for key in code_spans(row["key of a rule"])]
    found = compare("key of a rule", documented, MappingRule.__struct_fields__)
    kinds = next(row["meaning"] for row in rows if row["key of a rule"] == "`kind`")
    named = [each for each in code_spans(kinds) if each in kinds.split(";")[0]]
    return found + compare("kind", named, [kind.value for kind in Kind])


def test_the_keys_of_a_rule_are_those_of_the_code() -> None:
    row = "| `zero_when` |"
    check(find_wrong_rule_keys, (row, "| `nought_when` |"), ("`counter` or `state`;", "`counter` or `status`;"))


def find_wrong_limits(text: str) -> Found:
    limits = {row["limit"]: row["value"] for row in read_table(text, "limit", "value", "beyond it")}
    retained = " ".join(re.findall(r"newest (\d+) steps of the server, or of those within (\d+) s", text)[0])
    found = compare("series of one server", [limits["series of one server"]], [f"{MAX_SERIES_OF_SERVER:,}"])
    return found + compare("retained", [retained], [f"{MIN_RETAINED_STEPS} {MIN_RETAINED_SECONDS}"])


def test_limits_are_those_of_the_code() -> None:
    steps = "newest 3 steps of the server, or"
    check(find_wrong_limits, ("| 20,000 |", "| 10,000 |"), (steps, steps.replace("3", "4")))


async def test_status_and_metrics_of_agents_are_those_of_a_daemon(tmp_path: Path) -> None:
    async with run_http_daemon(tmp_path / "state", HttpDaemonSettings()) as daemon:
        shown = set((await daemon.status())["agents"])
        exposition = (await daemon.call("GET", "/metrics")).data.decode()
        counts = set(daemon.service.collector.start_batch("any").counts.describe())
        app = daemon.http_app.app
        paths = {route.resource.canonical for route in app.router.routes() if route.resource is not None}
    metrics = set(re.findall(r"^# TYPE (\w+)", exposition, re.MULTILINE))

    def find_wrong_status(text: str) -> Found:
        rows = read_table(text, "key of `agents`", "content")
        documented = [key for row in rows for key in code_spans(row["key of `agents`"])]
        of_protocol = next(row["content"] for row in rows if row["key of `agents`"] == "`protocols`")
        return compare("key", documented, shown) + compare("count", code_spans(of_protocol), counts)

    def find_unknown_metrics(text: str) -> Found:
        return [name for name in re.findall(r"`(streamd_\w+)`", text) if name not in metrics]

    def find_unknown_paths(text: str) -> Found:
        named = re.findall(r"127\.0\.0\.1:8002(/[\w/]+)|`(?:POST|GET) (/[\w/]+)`|(?:URL path =|path=) ?(/\w+)", text)
        found = {path for match in named for path in match if path}
        wanted = {"/api/v1/write", "/collectd", "/telegraf", "/glances", "/receive", "/api/put", "/pcp"}
        return [path for path in sorted(found) if path not in paths] + sorted(wanted - found)

    check(find_wrong_status, ("| `restored_points` |", "| `read_points` |"), ("`skipped`, each", "`passed`, each"))
    check(find_unknown_metrics, ("`streamd_series`", "`streamd_serials`"))
    check(find_unknown_paths, ("8002/telegraf", "8002/telegraf/v2"), ("path=/glances\n", "path=/glance\n"))


# ---------------------------------------------------------------- configurations
def find_wrong_rules(text: str) -> Found:
    """Load the rules of the example, as the daemon does, and compile them."""
    try:
        section = tomllib.loads(block_named(text, "config.toml"))["mapping"]
        mapping = RuleMapping(load_rule_sets(parse_mapping_settings(section)), NetworkContract().features)
    except Exception as error:  # what is wrong with it is the answer
        return [str(error)]
    names = {rule.name for rule in mapping.rules}
    wanted = {"mine.java_cpu", "mine.java_cpu_of_app", "node_exporter.disk_usage"}
    return compare("rule", wanted, wanted & names)


def test_the_example_of_rules_is_loaded() -> None:
    check(
        find_wrong_rules, ("where_not = { job", "were_not = { job"), ("[mapping.mine.java_cpu]", "[mapping.mine.java]")
    )


def find_wrong_telegraf(text: str) -> Found:
    """Compare the inputs of Telegraf's configuration with the measurements of its rules; the other blocks are read."""
    try:
        configurations = [tomllib.loads(block) for block in blocks_named(text, "telegraf.conf")]
    except tomllib.TOMLDecodeError as error:
        return [str(error)]
    outputs = [name for each in configurations for name in each.get("outputs", {})]
    measurements = {metric.partition("_")[0] for metric in list_metrics(load_rule_set("telegraf"))}
    inputs: dict[str, Any] = configurations[0]["inputs"]
    found = compare("output", outputs, ["influxdb_v2", "http", "websocket"])
    return found + compare("input", inputs, measurements)


def test_telegrafs_configuration_has_the_inputs_of_its_rules() -> None:
    check(
        find_wrong_telegraf,
        ("[[inputs.netstat]]\n", ""),
        ('[[outputs.websocket]]                          # JSON\n  url = "ws:', "[[outputs.websocket]]\n  url = ws:"),
    )


def find_wrong_plugins(text: str) -> Found:
    loaded = set(re.findall(r"^LoadPlugin (\w+)$", block_named(text, "collectd.conf"), re.MULTILINE)) - {"write_http"}
    return compare("plugin", loaded, {metric.partition("/")[0] for metric in list_metrics(load_rule_set("collectd"))})


def test_collectds_configuration_has_the_plugins_of_its_rules() -> None:
    check(find_wrong_plugins, ("LoadPlugin tcpconns\n", ""))


def find_metrics_lost_by_filter(text: str) -> Found:
    """Return the metrics of node_exporter's rules that the filter of Prometheus would drop."""
    (written,) = re.findall(r'regex: "(.*?)"\n', block_named(text, "prometheus.yml"), re.DOTALL)
    kept = re.compile(re.sub(r"\\\n\s*", "", written))
    return [metric for metric in sorted(list_metrics(load_rule_set("node_exporter"))) if not kept.fullmatch(metric)]


def test_the_filter_of_prometheus_keeps_what_the_rules_want() -> None:
    check(find_metrics_lost_by_filter, ("(Mem|Swap)", "(Mem|Swop)"), ("|node_tcp_connection_states", ""))


def find_wrong_pcp_metrics(text: str) -> Found:
    wanted = {metric for metric in list_metrics(load_rule_set("pcp")) if "." in metric}
    found: Found = []
    for name in ("pcp2influxdb", "pcp2json"):
        (arguments,) = re.findall(rf"^{name} (.*?)^```", text, re.MULTILINE | re.DOTALL)
        words = [word for word in arguments.partition("|")[0].split() if re.fullmatch(r"[a-z]+(\.[a-z_]+)+", word)]
        found += compare(f"metric of {name}", words, wanted)
    return found


def test_the_metrics_of_pcp_are_those_of_its_rules() -> None:
    check(find_wrong_pcp_metrics, ("hinv.ncpu ", ""), ("kernel.all.uptime | ", "kernel.all.uptimes | "))


def find_wrong_opentelemetry_metrics(text: str) -> Found:
    named = re.findall(r'^        "(system[\w.]+)":', block_named(text, "app.py"), re.MULTILINE)
    return [metric for metric in named if metric not in list_metrics(load_rule_set("opentelemetry"))] or (
        [] if named else ["the program names no metric"]
    )


def test_the_metrics_of_opentelemetry_are_those_of_its_rules() -> None:
    check(find_wrong_opentelemetry_metrics, ('"system.network.io":', '"system.network.bytes":'))


def find_wrong_ini(text: str) -> Found:
    """Read the configurations of netdata and glances, which are of sections with keys."""
    found: Found = []
    for name, wanted in (("exporting.conf", {"exporting:global"}), ("glances.conf", {"influxdb2", "restful"})):
        for block in blocks_named(text, name) or [""]:
            parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
            try:
                parser.read_string(block)
            except configparser.Error as error:
                found.append(f"{name}: {error}")
            found += [f"{name}: no section {each}" for each in sorted(wanted - set(parser.sections()))]
    return found


def test_the_configurations_of_netdata_and_glances_can_be_read() -> None:
    check(find_wrong_ini, ("[restful]\n", ""), ("[exporting:global]\n  enabled = yes\n", "enabled = yes\n"))
