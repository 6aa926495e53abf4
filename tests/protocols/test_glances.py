"""Tests `streamd/protocols/glances.py`: the RESTful export of glances 4.5.8, and bodies that are broken."""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidSampleError, InvalidValueError, MalformedError
from streamd.core.values import is_value
from streamd.protocols.glances import MAX_COLUMN_DOTS, MAX_PLUGIN_FIELDS, MAX_PLUGINS, decode_glances
from streamd.protocols.line_protocol import decode_line_protocol
from tests.support.recording_sink import RecordingSink

AGENTS = Path(__file__).parents[1] / "fixtures" / "agents"
NOW = 1_795_899_720.0
ISO = "2026-11-28T20:50:00+00:00"


def decode(body: bytes) -> RecordingSink:
    sink = RecordingSink()
    for _ in decode_glances(body, sink, NOW):
        pass
    return sink


def decode_plugins(**plugins: Any) -> RecordingSink:
    message = {"system": {"hostname": "web-01"}, "now": {"iso": ISO}, **plugins}
    return decode(json.dumps(message).encode())


def read_refresh(number: int) -> bytes:
    return (AGENTS / f"glances-restful/refresh-{number}.body").read_bytes()


def list_values(sink: RecordingSink) -> dict[tuple[str, ...], float]:
    """Return the values by name and the values of the labels that no other label repeats."""
    hidden = ("hostname", "_measurement", "_field")
    return {
        (series.name, *(text for label, text in series.labels.items() if label not in hidden)): value
        for series, _, value in sink.points
    }


# ---------------------------------------------------------------- what glances sends
def test_a_refresh_gives_the_numbers_of_all_plugins() -> None:
    sink = decode(read_refresh(1))
    assert not sink.rejected
    assert {time for _, time, _ in sink.points} == {datetime.fromisoformat("2026-11-29T06:30:23+00:00").timestamp()}
    assert {series.labels["hostname"] for series, _, _ in sink.points} == {"web-01"}
    values = list_values(sink)
    assert values["cpu_user",] == 0.2
    assert values["mem_percent",] == 2.0
    assert values["memswap_percent",] == 0.0
    assert values["fs_percent", "/"] == 24.9
    assert values["network_bytes_recv_rate_per_sec", "eth0"] == 0.0
    assert values["connections_close_wait",] == 0.0
    assert ("load_min1",) in values
    assert ("uptime_seconds",) in values


def test_series_are_named_as_in_the_export_to_influxdb() -> None:
    """The two fixtures are of two hosts, so only series that both have are compared; `env` is a configured tag."""
    rest, lines = decode(read_refresh(2)), RecordingSink()
    for _ in decode_line_protocol((AGENTS / "glances-influxdb2/lines-1.body").read_bytes(), lines, NOW):
        pass
    plugins = {"load", "network", "connections", "fs", "mem", "cpu", "uptime", "memswap"}

    def list_series(sink: RecordingSink) -> set[tuple[tuple[str, str], ...]]:
        return {
            (("", series.name), *sorted((name, text) for name, text in series.labels.items() if name != "env"))
            for series, _, _ in sink.points
            if series.labels["_measurement"] in plugins
        }

    missing = list_series(lines) - list_series(rest)
    assert not missing
    more = {series[0][1] for series in list_series(rest) - list_series(lines)}
    assert more == set()


# ---------------------------------------------------------------- flat keys
def test_an_item_is_the_longest_name_before_a_dot() -> None:
    mounts = {"/": 1.0, "/.snapshots": 2.0, "/a.b": 3.0, "/a": 4.0, "/x.key": 5.0}
    fs: dict[str, Any] = {}
    for mount, percent in mounts.items():
        fs |= {f"{mount}.percent": percent, f"{mount}.mnt_point": mount, f"{mount}.key": "mnt_point"}
    assert list_values(decode_plugins(fs=fs)) == {("fs_percent", mount): value for mount, value in mounts.items()}


def test_an_interface_may_have_dots() -> None:
    network: dict[str, Any] = {}
    for name in ("eth0", "eth0.100", "eth0.100.5"):
        network |= {f"{name}.bytes_recv": len(name), f"{name}.key": "interface_name", f"{name}.interface_name": name}
    values = list_values(decode_plugins(network=network))
    assert values == {("network_bytes_recv", name): len(name) for name in ("eth0", "eth0.100", "eth0.100.5")}


def test_without_the_fields_key_the_last_dot_counts() -> None:
    """As with `exclude_fields=.*\\.key`."""
    sink = decode_plugins(fs={"/a.b.percent": 5}, network={"eth0.100.bytes_recv": 6}, other={"a.b": 7})
    assert list_values(sink) == {
        ("fs_percent", "/a.b"): 5.0,
        ("network_bytes_recv", "eth0.100"): 6.0,
        ("other_a.b",): 7.0,
    }
    assert sink.points[0][0].labels["mnt_point"] == "/a.b"


def test_a_number_that_names_an_item_is_a_float_and_no_value() -> None:
    sink = decode_plugins(percpu={"0.key": "cpu_number", "0.cpu_number": 0, "0.total": 2.9})
    assert list_values(sink) == {("percpu_total", "0.0"): 2.9}
    assert sink.points[0][0].labels["cpu_number"] == "0.0"


def test_text_fields_that_influxdb_has_as_tags_are_labels() -> None:
    sink = decode_plugins(
        sensors={"Core 0.key": "label", "Core 0.label": "Core 0", "Core 0.type": "temperature_core", "Core 0.value": 40}
    )
    labels = sink.points[0][0].labels
    assert labels == {
        "hostname": "web-01",
        "label": "Core 0",
        "type": "temperature_core",
        "_measurement": "sensors",
        "_field": "value",
    }


# ---------------------------------------------------------------- host and time
@pytest.mark.parametrize("plugins", [{"system": {}}, {"system": None}, {"system": {"hostname": ""}}, {"system": []}])
def test_a_body_without_its_host_is_malformed(plugins: Any) -> None:
    with pytest.raises(MalformedError, match=r"system\.hostname is missing"):
        decode_plugins(**plugins, cpu={"user": 1})


@pytest.mark.parametrize("now", [None, {}, {"iso": 5}, {"iso": "yesterday"}, {"iso": "2026-11-28T20:50:00"}, []])
def test_without_the_time_of_the_refresh_that_of_arrival_counts(now: Any) -> None:
    assert {time for _, time, _ in decode_plugins(now=now, cpu={"user": 1}).points} == {NOW}


# ---------------------------------------------------------------- bad values
def test_text_and_null_are_skipped() -> None:
    sink = decode_plugins(x={"a": "b", "c": None, "d": True, "e": [1], "f": {"g": 1}, "h": 1})
    assert list_values(sink) == {("x_h",): 1.0}
    assert sink.skipped == {"text value": 3, "missing value": 1, "nested value": 3}


def test_numbers_that_json_has_not_cost_only_themselves() -> None:
    body = b'{"system":{"hostname":"a"},"cpu":{"user":NaN,"system":Infinity,"idle":1,"nice":1e999}}'
    sink = decode(body)
    assert list_values(sink) == {("cpu_idle",): 1.0}
    assert [type(error) for error in sink.rejected] == [InvalidValueError] * 2
    assert str(sink.rejected[0]).startswith("'cpu', 'system': ")


def test_a_mount_point_that_is_not_unicode_costs_only_itself() -> None:
    """Python gives glances such a name with surrogates, and glances sends them."""
    bad, good = "/\udcff", "/ok"
    fs: dict[str, Any] = {}
    for mount in (bad, good):
        fs |= {f"{mount}.percent": 5, f"{mount}.mnt_point": mount, f"{mount}.key": "mnt_point"}
    sink = decode_plugins(fs=fs, cpu={"user": 1})
    assert list_values(sink) == {("fs_percent", "/ok"): 5.0, ("cpu_user",): 1.0}
    assert [type(error) for error in sink.rejected] == [InvalidSampleError]


@pytest.mark.parametrize(
    "plugin",
    [
        5,
        "x",
        [1],
        dict.fromkeys(map(str, range(MAX_PLUGIN_FIELDS + 1)), 1),
        {"x" * 2_000: 1},
        {"." * (MAX_COLUMN_DOTS + 1): 1},
        {"a.key": "k" * 2_000, "a.v": 1},
        {"a" * 2_000 + ".key": "k", "a" * 2_000 + ".v": 1},
    ],
)
def test_a_bad_plugin_costs_only_itself(plugin: Any) -> None:
    sink = decode_plugins(bad=plugin, cpu={"user": 1})
    assert list_values(sink) == {("cpu_user",): 1.0}
    assert len(sink.rejected) == 1
    assert isinstance(sink.rejected[0], InvalidSampleError)
    assert str(sink.rejected[0]).startswith("'bad'")
    assert len(str(sink.rejected[0])) < 300


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"1", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"system":' * 50_000]
)
def test_a_body_of_another_form_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(body)


def test_the_number_of_plugins_is_bounded() -> None:
    body = {"system": {"hostname": "a"}, **{str(index): {} for index in range(MAX_PLUGINS)}}
    with pytest.raises(MalformedError, match="at most 1000"):
        decode(json.dumps(body).encode())


def test_many_fields_are_decoded_in_slices() -> None:
    body = {"system": {"hostname": "a"}, **{f"p{index}": dict.fromkeys("abcdefghij", 1) for index in range(500)}}
    sink = RecordingSink()
    assert sum(1 for _ in decode_glances(json.dumps(body).encode(), sink, NOW)) > 4
    assert len(sink.points) == 5_000


# ---------------------------------------------------------------- any items, any bytes
items = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda text: text.count(".") < 9
)


@given(st.dictionaries(items, st.floats(-9e29, 9e29), max_size=6))
def test_whatever_its_name_is_an_item_has_its_value(values: dict[str, float]) -> None:
    fs: dict[str, Any] = {}
    for item, value in values.items():
        fs |= {f"{item}.key": "mnt_point", f"{item}.mnt_point": item, f"{item}.percent": value}
    # Only an item such as "/.key" or "/.percent" hides a field of the item "/".
    suffixes = (".key", ".mnt_point", ".percent")
    if any(item.endswith(suffixes) for item in values):
        return
    assert list_values(decode_plugins(fs=fs)) == {("fs_percent", item): value for item, value in values.items()}


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,system.hotnakey1e9 ', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_malformed(body: bytes) -> None:
    try:
        decode(body)
    except MalformedError:
        return


@given(st.data())
def test_mutated_refreshes_are_read_or_malformed(data: st.DataObject) -> None:
    body = bytearray(read_refresh(1))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        sink = decode(bytes(body))
    except MalformedError:
        return
    assert all(is_value(value) and math.isfinite(time) for _, time, value in sink.points)
