"""Tests `streamd/rule_sets/*.toml` on what real agents sent: each capture gives exactly the features of its table.

The expected values come from naive readers (`tests/support/naive_agents.py`) and from conversions that are written here
by hand. A feature that an agent does not send is missing.
"""

import json
from collections.abc import Callable
from math import isclose
from pathlib import Path
from typing import Any

import pytest

from streamd.rule_sets import MappingSettings, list_rule_sets
from streamd.tools.mapping.check import check_captures
from streamd.tools.mapping.checked import FeatureValue
from streamd.tools.networks.contract import FEATURE_UNITS
from tests.support.naive_agents import (
    NaivePoint,
    NaivePoints,
    add,
    average,
    divide,
    read_collectd_naively,
    read_glances_naively,
    read_lines_naively,
    read_netdata_naively,
    read_otlp_naively,
    read_pcp_naively,
    read_remote_write_naively,
    read_scrape_naively,
    scale,
    total,
)

AGENTS = Path(__file__).parents[1] / "fixtures" / "agents"
NOW = 1_795_900_200.0
"""The time of points that have none, at the begin of a step."""

Expected = dict[str, float | None]
CPU_STATES = ("cpu_user", "cpu_sys", "cpu_iowait", "cpu_idle")
JIFFIES = ("user", "system", "wait", "nice", "interrupt", "softirq", "steal", "idle")


def compute_by_streamd(files: list[Path]) -> dict[str, dict[str, float]]:
    """Return the features of each server in the captures, computed by the decoders, the rules and the aggregation."""
    report = check_captures(files, settings=MappingSettings(), format_name=None, now=NOW)
    assert not report.sink.rejected
    found = {server.name: dict(report.list_features(server)) for server in report.sink.servers.values()}
    return {
        server: {feature: value.value for feature, value in features.items() if isinstance(value, FeatureValue)}
        for server, features in found.items()
    }


# ---------------------------------------------------------------- the tables, by hand
def expect_collectd(points: NaivePoints) -> Expected:
    """collectd with StoreRates and ValuesPercentage."""
    percents = {
        feature: points.mean("cpu/percent", type_instance=state)
        for feature, state in zip(CPU_STATES, ("user", "system", "wait", "idle"), strict=True)
    }
    used = points.mean("df/percent_bytes", plugin_instance="root", type_instance="used")
    free = points.mean("df/percent_bytes", plugin_instance="root", type_instance="free")
    close_wait = points.mean("tcpconns/tcp_connections", plugin_instance="all", type_instance="CLOSE_WAIT")
    return percents | {
        "mem_used": points.mean("memory/percent", type_instance="used"),
        "swap_used": points.mean("swap/percent", type_instance="used"),
        "disk_usage": divide(used, add(used, free)),
        "net_in": points.mean("interface/if_octets", ds="rx"),
        "net_out": points.mean("interface/if_octets", ds="tx"),
        "back_close_wait": close_wait,
        "front_close_wait": close_wait,
        "load_average": points.mean("load/load", ds="shortterm"),
        "uptime": points.mean("uptime/uptime"),
    }


def expect_collectd_defaults(points: NaivePoints) -> Expected:
    """collectd with raw counters."""
    shares: dict[str, list[float]] = {feature: [] for feature in CPU_STATES}
    for core in ("0", "1"):
        rates = [points.rates("cpu/cpu", plugin_instance=core, type_instance=state) for state in JIFFIES]
        if all(rates):
            for feature, state in zip(CPU_STATES, ("user", "system", "wait", "idle"), strict=True):
                shares[feature].append(100 * rates[JIFFIES.index(state)][0] / sum(rate[0] for rate in rates))
    memory = {
        state: points.mean("memory/memory", type_instance=state)
        for state in ("used", "buffered", "cached", "free", "slab_unrecl", "slab_recl")
    }
    swap = {state: points.mean("swap/swap", type_instance=state) for state in ("used", "free")}
    disk = {
        state: points.mean("df/df_complex", plugin_instance="root", type_instance=state) for state in ("used", "free")
    }
    close_wait = points.mean("tcpconns/tcp_connections", type_instance="CLOSE_WAIT")
    return {
        **{feature: average(values) for feature, values in shares.items()},
        "mem_used": divide(memory["used"], add(*memory.values())),
        "swap_used": divide(swap["used"], add(*swap.values())),
        "disk_usage": divide(disk["used"], add(*disk.values())),
        "net_in": total(points.rates("interface/if_octets", ds="rx")),
        "net_out": total(points.rates("interface/if_octets", ds="tx")),
        "back_close_wait": close_wait,
        "front_close_wait": close_wait,
        "load_average": points.mean("load/load", ds="shortterm"),
        "uptime": points.mean("uptime/uptime"),
    }


def expect_glances(points: NaivePoints) -> Expected:
    cards = ("ifb0", "ifb1", "eth0")
    rates = {
        way: [points.mean(f"network.bytes_{way}_rate_per_sec", interface_name=card) for card in cards]
        for way in ("recv", "sent")
    }
    return {
        "cpu_user": points.mean("cpu.user"),
        "cpu_sys": points.mean("cpu.system"),
        "cpu_iowait": points.mean("cpu.iowait"),
        "cpu_idle": points.mean("cpu.idle"),
        "mem_used": points.mean("mem.percent"),
        "swap_used": points.mean("memswap.percent"),
        "disk_usage": points.mean("fs.percent", mnt_point="/"),
        "net_in": add(*rates["recv"]),
        "net_out": add(*rates["sent"]),
        "back_close_wait": points.mean("connections.close_wait"),
        "front_close_wait": points.mean("connections.close_wait"),
        "load_average": points.mean("load.min1"),
        "uptime": points.mean("uptime.seconds"),
    }


def expect_netdata_json(points: NaivePoints) -> Expected:
    ram = [points.mean("system.ram", id=state) for state in ("used", "free", "cached", "buffers")]
    used, avail = (points.mean("disk_space._", id=state) for state in ("used", "avail"))
    return {
        "cpu_user": points.mean("system.cpu", id="user"),
        "cpu_sys": points.mean("system.cpu", id="system"),
        "cpu_iowait": points.mean("system.cpu", id="iowait"),
        "cpu_idle": points.mean("system.cpu", id="idle"),
        "mem_used": divide(ram[0], add(*ram)),
        "disk_usage": divide(used, add(used, avail)),
        "net_in": scale(points.mean("system.net", id="InOctets"), 125),
        "net_out": scale(points.mean("system.net", id="OutOctets"), -125),
        "load_average": points.mean("system.load", id="load1"),
        "uptime": points.mean("system.uptime"),
    }


def expect_netdata_average(points: NaivePoints) -> Expected:
    cpu, net = "netdata_system_cpu_percentage_average", "netdata_system_net_kilobits_persec_average"
    ram = [
        points.mean("netdata_system_ram_MiB_average", dimension=state)
        for state in ("used", "free", "cached", "buffers")
    ]
    used, avail = (
        points.mean("netdata_disk_space_GiB_average", family="/", dimension=state) for state in ("used", "avail")
    )
    return {
        "cpu_user": points.mean(cpu, dimension="user"),
        "cpu_sys": points.mean(cpu, dimension="system"),
        "cpu_iowait": points.mean(cpu, dimension="iowait"),
        "cpu_idle": points.mean(cpu, dimension="idle"),
        "mem_used": divide(ram[0], add(*ram)),
        "disk_usage": divide(used, add(used, avail)),
        "net_in": scale(points.mean(net, dimension="received"), 125),
        "net_out": scale(points.mean(net, dimension="sent"), -125),
        "load_average": points.mean("netdata_system_load_load_average", dimension="load1"),
        "uptime": points.mean("netdata_system_uptime_seconds_average"),
    }


def expect_netdata_as_collected(points: NaivePoints) -> Expected:
    jiffies = total(points.rates("netdata_system_cpu_total"))
    shares = {
        feature: divide(total(points.rates("netdata_system_cpu_total", dimension=state)), jiffies)
        for feature, state in zip(CPU_STATES, ("user", "system", "iowait", "idle"), strict=True)
    }
    ram = [points.mean("netdata_system_ram", dimension=state) for state in ("used", "free", "cached", "buffers")]
    used, avail = (points.mean("netdata_disk_space", family="/", dimension=state) for state in ("used", "avail"))
    return shares | {
        "mem_used": divide(ram[0], add(*ram)),
        "disk_usage": divide(used, add(used, avail)),
        "net_in": total(points.rates("netdata_system_net_total", dimension="received")),
        "net_out": total(points.rates("netdata_system_net_total", dimension="sent")),
        "load_average": scale(points.mean("netdata_system_load", dimension="load1"), 1 / 1000),
        "uptime": scale(points.mean("netdata_system_uptime"), 1 / 1000),
    }


def expect_node_exporter(points: NaivePoints) -> Expected:
    total_bytes, swap_bytes = points.mean("node_memory_MemTotal_bytes"), points.mean("node_memory_SwapTotal_bytes")
    size, free, avail = (
        points.mean(f"node_filesystem_{name}_bytes", mountpoint="/") for name in ("size", "free", "avail")
    )
    used = add(size, scale(free, -1))
    rates = {
        feature: scale(average(points.rates("node_cpu_seconds_total", mode=mode)), 100)
        for feature, mode in zip(CPU_STATES, ("user", "system", "iowait", "idle"), strict=True)
    }
    # With --collector.tcpstat a state without connections has no series.
    close_wait = points.mean("node_tcp_connection_states", state="close_wait")
    if close_wait is None and points.find("node_tcp_connection_states"):
        close_wait = 0.0
    return rates | {
        "mem_used": divide(add(total_bytes, scale(points.mean("node_memory_MemAvailable_bytes"), -1)), total_bytes),
        "swap_used": divide(add(swap_bytes, scale(points.mean("node_memory_SwapFree_bytes"), -1)), swap_bytes),
        "disk_usage": divide(used, add(used, avail)),
        "net_in": total(points.rates("node_network_receive_bytes_total")),
        "net_out": total(points.rates("node_network_transmit_bytes_total")),
        "back_close_wait": close_wait,
        "front_close_wait": close_wait,
        "load_average": points.mean("node_load1"),
        "uptime": add(points.mean("node_time_seconds"), scale(points.mean("node_boot_time_seconds"), -1)),
    }


def expect_opentelemetry(points: NaivePoints) -> Expected:
    utilization: dict[str, list[float]] = {}
    for feature, state in (("cpu_user", "user"), ("cpu_sys", "system"), ("cpu_idle", "idle")):
        for core in ("1", "2"):
            (series,) = points.find("system.cpu.utilization", cpu=core, state=state)
            idle = points.find("system.cpu.utilization", cpu=core, state="idle")[0]
            # The first export is 0 in every state, which is no measurement.
            values = [value for time, value in series.items() if idle[time] > 0]
            if values:
                utilization.setdefault(feature, []).append(100 * sum(values) / len(values))
    tcp = points.find("system.network.connections", protocol="tcp")
    close_wait = [
        sum(series.values()) / len(series)
        for series in points.find("system.network.connections", protocol="tcp", state="CLOSE_WAIT")
    ]
    traffic = {
        direction: [
            rate
            for card in ("ifb0", "ifb1", "eth0")
            for rate in points.rates("system.network.io", device=card, direction=direction)
        ]
        for direction in ("receive", "transmit")
    }
    return {
        **{feature: average(values) for feature, values in utilization.items()},
        "mem_used": scale(points.mean("system.memory.utilization", state="used"), 100),
        "swap_used": scale(points.mean("system.swap.utilization", state="used"), 100),
        "net_in": total(traffic["receive"]),
        "net_out": total(traffic["transmit"]),
        "back_close_wait": sum(close_wait) if tcp else None,
        "front_close_wait": sum(close_wait) if tcp else None,
    }


def expect_pcp2json(points: NaivePoints) -> Expected:
    cores = points.mean("hinv.ncpu")
    cards = ("ifb0", "ifb1", "eth0")
    available, memory = points.mean("mem.util.available"), points.mean("mem.physmem")
    return {
        "cpu_user": divide(points.mean("kernel.all.cpu.user"), cores, 0.1),
        "cpu_sys": divide(points.mean("kernel.all.cpu.sys"), cores, 0.1),
        "cpu_iowait": divide(points.mean("kernel.all.cpu.wait.total"), cores, 0.1),
        "cpu_idle": divide(points.mean("kernel.all.cpu.idle"), cores, 0.1),
        "mem_used": divide(add(memory, scale(available, -1)), memory),
        "swap_used": divide(points.mean("swap.used"), points.mean("swap.length")),
        "disk_usage": points.mean("filesys.full", instance="/dev/vda"),
        "net_in": add(*(points.mean("network.interface.in.bytes", instance=card) for card in cards)),
        "net_out": add(*(points.mean("network.interface.out.bytes", instance=card) for card in cards)),
        "back_close_wait": points.mean("network.tcpconn.close_wait"),
        "front_close_wait": points.mean("network.tcpconn.close_wait"),
        "load_average": points.mean("kernel.all.load", instance="1 minute"),
        "uptime": points.mean("kernel.all.uptime"),
    }


def expect_pcp2influxdb(points: NaivePoints) -> Expected:
    """The capture lacks the number of cores, the sizes of memory and swap, and what was sent."""
    return {
        "disk_usage": points.mean("filesys_full.__dev_vda"),
        "net_in": add(*(points.mean(f"network_interface_in_bytes._{card}") for card in ("ifb0", "ifb1", "eth0"))),
        "back_close_wait": points.mean("network_tcpconn_close_wait.value"),
        "front_close_wait": points.mean("network_tcpconn_close_wait.value"),
        "load_average": points.mean("kernel_all_load._1_minute"),
        "uptime": points.mean("kernel_all_uptime.value"),
    }


# ---------------------------------------------------------------- the captures
Reader = Callable[..., Any]
CASES: list[tuple[str, list[str], Reader, Callable[[NaivePoints], Expected], set[str]]] = [
    (
        "collectd",
        ["rates-1", "rates-2", "rates-3"],
        read_collectd_naively,
        expect_collectd,
        {"java_cpu", "swap_used"},
    ),
    (
        "collectd-defaults",
        ["cpu-jiffies"],
        read_collectd_naively,
        expect_collectd_defaults,
        {*FEATURE_UNITS} - {"load_average"},
    ),
    (
        "collectd-defaults",
        ["first-with-null-rates"],
        read_collectd_naively,
        expect_collectd_defaults,
        {*FEATURE_UNITS} - {"back_close_wait", "front_close_wait"},
    ),
    (
        "collectd-defaults",
        ["counters"],
        read_collectd_naively,
        expect_collectd,
        {*FEATURE_UNITS} - {"cpu_user", "cpu_sys", "cpu_iowait", "back_close_wait", "front_close_wait"},
    ),
    ("glances-influxdb2", ["lines-1", "lines-2"], read_lines_naively, expect_glances, {"java_cpu"}),
    ("glances-restful", ["refresh-1", "refresh-2"], read_glances_naively, expect_glances, {"java_cpu"}),
    (
        "netdata-json-average",
        ["average-1", "empty", "average-2"],
        read_netdata_naively,
        expect_netdata_json,
        {"java_cpu", "swap_used", "back_close_wait", "front_close_wait"},
    ),
    (
        "netdata-remote-write",
        ["average-1"],
        read_remote_write_naively,
        expect_netdata_average,
        {"java_cpu", "swap_used", "back_close_wait", "front_close_wait"},
    ),
    (
        "netdata-remote-write",
        ["as-collected-1", "as-collected-2"],
        read_remote_write_naively,
        expect_netdata_as_collected,
        {"java_cpu", "swap_used", "back_close_wait", "front_close_wait"},
    ),
    (
        "node-exporter",
        ["scrape"],
        read_scrape_naively,
        expect_node_exporter,
        {"java_cpu", "swap_used", *CPU_STATES, "net_in", "net_out"},  # of a single scrape
    ),
    (
        "prometheus",
        ["samples", "metadata"],
        read_remote_write_naively,
        expect_node_exporter,
        {"java_cpu", "swap_used", "back_close_wait", "front_close_wait"},
    ),
    ("prometheus", ["stale"], read_remote_write_naively, expect_node_exporter, {*FEATURE_UNITS}),
    (
        "vmagent",
        ["out-of-order-1", "out-of-order-2"],
        read_remote_write_naively,
        expect_node_exporter,
        {*FEATURE_UNITS} - {*CPU_STATES, "load_average"},
    ),
    ("vmagent", ["samples"], read_remote_write_naively, expect_node_exporter, {*FEATURE_UNITS} - {"load_average"}),
    (
        "opentelemetry",
        ["first-zero-utilization"],
        read_otlp_naively,
        expect_opentelemetry,
        {"java_cpu", *CPU_STATES, "disk_usage", "load_average", "uptime", "net_in", "net_out"},
    ),
    (
        "opentelemetry",
        ["first-zero-utilization", "second"],
        read_otlp_naively,
        expect_opentelemetry,
        {"java_cpu", "cpu_iowait", "disk_usage", "load_average", "uptime"},
    ),
    (
        "pcp2influxdb",
        ["first", "next"],
        read_lines_naively,
        expect_pcp2influxdb,
        {"java_cpu", *CPU_STATES, "mem_used", "swap_used", "net_out"},
    ),
    ("pcp2json", ["default-stdout"], read_pcp_naively, expect_pcp2json, {"java_cpu", "swap_used"}),
    ("pcp2json", ["no-header-exact"], read_pcp_naively, expect_pcp2json, {"java_cpu", "swap_used"}),
]
"""Folder, captures in the order in which they were sent, naive reader, table, and what must be missing."""

SERVERS = {("node-exporter", "scrape"): "scrape", ("vmagent", "samples"): "other"}
"""The servers that are not web-01: the others' label or address was changed, and a scrape is not pushed."""

NOTHING = [("influxdb-client", ["empty", "gzip", "point"]), ("netdata-json-average", ["empty"])]
NOTHING += [("opentelemetry", ["no-host-name"]), ("prometheus", ["metadata"])]
"""Captures of which nothing belongs to a server."""


@pytest.mark.parametrize(
    ("folder", "names", "read", "expect", "missing"), CASES, ids=[f"{folder}-{names[0]}" for folder, names, *_ in CASES]
)
def test_a_capture_gives_exactly_the_features_of_its_table(
    folder: str, names: list[str], read: Reader, expect: Callable[[NaivePoints], Expected], missing: set[str]
) -> None:
    files = [AGENTS / folder / f"{name}.body" for name in names]
    given = [file for file in files if file.stem not in ("metadata", "empty")]
    expected = {name: value for name, value in expect(NaivePoints(read(*given))).items() if value is not None}
    assert set(FEATURE_UNITS) - set(expected) == missing, "the naive reading lacks what cannot be had, and no more"
    found = compute_by_streamd(files)
    server = SERVERS.get((folder, names[0]), "web-01")
    assert found.keys() == {server}
    assert found[server].keys() == expected.keys()
    differing = {
        feature: (found[server][feature], value)
        for feature, value in expected.items()
        if not isclose(found[server][feature], value, rel_tol=1e-9, abs_tol=1e-12)
    }
    assert differing == {}


@pytest.mark.parametrize(("folder", "names"), NOTHING, ids=[folder for folder, _ in NOTHING])
def test_a_capture_that_names_no_server_or_no_known_metric_gives_nothing(folder: str, names: list[str]) -> None:
    assert compute_by_streamd([AGENTS / folder / f"{name}.body" for name in names]) == {}


def test_every_capture_is_checked() -> None:
    checked = {(folder, name) for folder, names, *_ in CASES for name in names}
    checked |= {(folder, name) for folder, names in NOTHING for name in names}
    assert checked == {(file.parent.name, file.stem) for file in AGENTS.glob("*/*.body")}


def test_the_values_are_in_the_units_of_the_model() -> None:
    """A percentage is at most 100, and the states of a CPU are at most 100 together."""
    for folder, names, *_ in CASES:
        for features in compute_by_streamd([AGENTS / folder / f"{name}.body" for name in names]).values():
            for feature, value in features.items():
                assert value >= 0, (folder, feature)
                assert value <= 100 or FEATURE_UNITS[feature] != "percent", (folder, feature)
            assert sum(features.get(state, 0.0) for state in CPU_STATES) <= 100.0 + 1e-9, folder


# ---------------------------------------------------------------- what no capture has whole
def test_the_jiffies_of_collectd_become_shares_of_each_core(tmp_path: Path) -> None:
    first = json.loads((AGENTS / "collectd-defaults" / "cpu-jiffies.body").read_bytes())
    jiffies = {(item["plugin_instance"], item["type_instance"]): item for item in first if item["type"] == "cpu"}
    increase = dict(zip(JIFFIES, (300, 100, 20, 80, 0, 10, 40, 450), strict=True))
    later = [
        item
        | {
            "time": 1795898366.62 + 11,
            "values": [item["values"][0] + increase[state] * (1 if core == "0" else 2 - (state == "idle"))],
        }
        for (core, state), item in jiffies.items()
    ]
    files = [tmp_path / "first.body", tmp_path / "later.body"]
    # The second core has no point of some states at the first time: those begin a second later in the capture.
    begin = [item | {"time": 1795898366.62} for item in jiffies.values()]
    for file, items in zip(files, (begin, later), strict=True):
        file.write_text(json.dumps(items))
    expected = expect_collectd_defaults(NaivePoints(read_collectd_naively(*files)))
    assert expected["cpu_user"] == pytest.approx((30 + 100 * 600 / 1550) / 2)
    found = compute_by_streamd(files)["web-01"]
    assert found == pytest.approx({feature: expected[feature] for feature in CPU_STATES})


def test_as_collected_values_of_netdata_are_scaled_by_chart_and_not_by_their_unit(tmp_path: Path) -> None:
    """As collected, netdata's JSON has the units of its averages (1.37.1): load x 1000, ms, KiB, bytes, jiffies."""
    averages = json.loads((AGENTS / "netdata-json-average" / "average-1.body").read_bytes())
    raw = {
        **{("system.cpu", state): 1_000 * place for place, state in enumerate(("user", "system", "iowait", "idle"), 1)},
        ("system.load", "load1"): 1_530,
        ("system.uptime", "uptime"): 3_600_500,
        ("system.ram", "used"): 1_000,
        ("system.ram", "free"): 3_000,
        ("system.net", "InOctets"): 5_000,
        ("system.net", "OutOctets"): 7_000,
        ("disk_space._", "used"): 300,
        ("disk_space._", "avail"): 600,
    }
    rising = {"system.cpu", "system.net"}
    files = [tmp_path / "first.body", tmp_path / "second.body"]
    for number, file in enumerate(files):
        items = [
            item
            | {
                "value": raw.get((item["chart_id"], item["id"]), 0) * (1 + number * (item["chart_id"] in rising)),
                "timestamp": 1795898400 + 10 * number,
            }
            for item in averages
        ]
        file.write_text(json.dumps(items))
    found = compute_by_streamd(files)["web-01"]
    assert found == pytest.approx(
        {
            "cpu_user": 10.0,
            "cpu_sys": 20.0,
            "cpu_iowait": 30.0,
            "cpu_idle": 40.0,
            "mem_used": 25.0,
            "disk_usage": 100 / 3,
            "net_in": 500.0,
            "net_out": 700.0,
            "load_average": 1.53,
            "uptime": 3600.5,
        }
    )


def test_telegraf_becomes_what_its_documentation_says(tmp_path: Path) -> None:
    """Telegraf has no capture; these lines are as the documentation of its inputs shows them."""
    lines = """\
cpu,cpu=cpu0,host=web-01 usage_user=99,usage_idle=1 {time}
cpu,cpu=cpu-total,host=web-01 usage_user=11.5,usage_system=4.25,usage_iowait=0.5,usage_idle=82.5,usage_guest=1 {time}
mem,host=web-01 available_percent=80,used=1000i,used_percent=15.5 {time}
swap,host=web-01 total=0i,used=0i,free=0i,used_percent=0 {time}
swap,host=web-01 in=0i,out=0i {time}
disk,device=vda1,fstype=ext4,host=web-01,mode=rw,path=/ used_percent=30.25 {time}
disk,device=vdb1,fstype=ext4,host=web-01,mode=rw,path=/data used_percent=90 {time}
net,host=web-01,interface=eth0 bytes_recv={received}i,bytes_sent={sent}i {time}
net,host=web-01,interface=docker0 bytes_recv={received}i,bytes_sent={sent}i {time}
net,host=web-01,interface=all tcp_insegs=1i {time}
netstat,host=web-01 tcp_established=10i,tcp_close_wait=3i {time}
system,host=web-01 load1=0.5,load5=0.4,load15=0.3,n_cpus=2i {time}
system,host=web-01 uptime=4000i {time}
"""
    file = tmp_path / "lines.body"
    parts = [(1_795_898_400, 5_000, 100), (1_795_898_410, 25_000, 300)]
    file.write_text(
        "".join(lines.format(time=f"{time}000000000", received=received, sent=sent) for time, received, sent in parts)
    )
    assert compute_by_streamd([file]) == {
        "web-01": pytest.approx(
            {
                "cpu_user": 11.5,
                "cpu_sys": 4.25,
                "cpu_iowait": 0.5,
                "cpu_idle": 82.5,
                "mem_used": 15.5,
                "swap_used": 0.0,
                "disk_usage": 30.25,
                "net_in": 2000.0,
                "net_out": 20.0,
                "back_close_wait": 3.0,
                "front_close_wait": 3.0,
                "load_average": 0.5,
                "uptime": 4000.0,
            }
        )
    }


def test_the_naive_readers_see_points() -> None:
    point: NaivePoint = next(iter(read_scrape_naively(AGENTS / "node-exporter" / "scrape.body")))
    assert point[0].startswith("go_")
    assert len(list_rule_sets()) == 7
