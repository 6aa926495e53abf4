"""Tests `streamd/runtime/state/migration.py`: window files of former versions, as they wrote them, are carried over.

Carrying over between files of this version's layout: `test_restoring.py`.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.state.directory import MAX_SERVER_NAME_BYTES
from streamd.core.state.layout import HEADER_BYTES, STATE_MAGIC
from streamd.core.state.window_columns import NO_STEP
from streamd.runtime.state.state import State
from tests.support.contracts import make_contract
from tests.support.former_files import Samples, layout_of, make_early, write_former_file
from tests.support.state_files import LIMITS, last_status, opened, rows_of, send, whole, window_of

CONTRACT = make_contract()
LAYOUT = layout_of(CONTRACT, LIMITS.capacity)
GENERATIONS = [None, 0, 1]
SERVERS = ("web-01", "web-02", "web-03")
SAMPLES: Samples = [
    *(("web-01", step, whole(float(step)), 3) for step in range(100, 112)),
    *(("web-02", step, whole(float(step)), None) for step in (200, 201, 202)),
    ("web-01", 107, {"cpu": -1.0}, None),
    ("web-02", 204, {"cpu": 5.0}, 5),
    ("web-03", 300, {"mem": 1.0}, None),
]


@pytest.fixture(autouse=True)
def skip_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files stay in memory: nothing here is about the disk."""
    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)


def write(folder: Path, generation: int | None = None, mark: bytes = b"clean") -> Path:
    """Write the former files of `SAMPLES`; returns the path of the window file."""
    path = folder / "windows.streamd"
    write_former_file(path, CONTRACT, LIMITS.capacity, SAMPLES, generation)
    (folder / "lock").write_bytes(mark.ljust(64, b"\n"))
    return path


def describe(state: State) -> dict[str, Any]:
    """Return the windows of all servers, and their open rows."""
    found: dict[str, Any] = {}
    for server, slot in state.directory.slots.items():
        arrays, newest = state.windows.arrays, state.windows.get_newest_step(slot)
        rows = rows_of(state, server) if newest != NO_STEP else {}
        open_row = (int(arrays["open_step"][slot]), int(arrays["open_status"][slot]) & 15)
        found[server] = str((newest, rows, open_row if open_row[0] != NO_STEP else None))
    return found


def make_expected(folder: Path) -> dict[str, Any]:
    """Return what a state of this version has of the same samples."""
    folder.mkdir()
    with opened(folder) as state:
        for server, step, values, status in SAMPLES:
            send(state, server, step, values, status)
        return describe(state)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("capacity", [LIMITS.capacity, 3, 9])
def test_a_file_of_a_former_version_is_carried_over_whole(
    tmp_path: Path, generation: int | None, capacity: int
) -> None:
    expected = make_expected(tmp_path / "expected")
    before = write(tmp_path, generation).read_bytes()
    for restart in range(2):
        with opened(tmp_path, limits=replace(LIMITS, capacity=capacity)) as state:
            assert describe(state) == expected
            assert last_status(state, "web-01") == 3
            assert state.recovered["carried_over"] == (0 if restart else 3)
            assert [state.recovered[name] for name in ("lost_rows", "unreadable", "repaired")] == [0, 0, 0]
            assert state.set_aside == []
    assert (tmp_path / "windows.streamd.old").read_bytes() == before, "an older build can go on with it"


@pytest.mark.parametrize("mark", [b"another boot", b""])
def test_a_former_file_after_a_power_loss_is_proven_row_by_row(tmp_path: Path, mark: bytes) -> None:
    expected = make_expected(tmp_path / "expected")
    path = write(tmp_path, mark=mark)
    content = bytearray(path.read_bytes())
    row = 4 * len(CONTRACT.features)
    for place in (4, 5 + CONTRACT.context_length, 7, 7 + CONTRACT.context_length):  # step 108, 109, and 111 twice
        content[LAYOUT.offsets["values"] + place * row] ^= 4
    path.write_bytes(content)
    with opened(tmp_path) as state:
        assert state.recovered["torn"] == 0, "the new file is whole"
        assert state.recovered["lost_rows"] == 1
        rows = rows_of(state, "web-01")
        assert sorted(rows) == [*range(104, 111)]
        assert rows[108] == whole(108.0)
        assert rows[109] == whole(109.0)
        found = describe(state)
        assert {name: found[name] for name in SERVERS[1:]} == {name: expected[name] for name in SERVERS[1:]}


@pytest.mark.parametrize("context_length", [4, 12])
def test_a_former_file_of_another_model_is_carried_over_row_by_row(tmp_path: Path, context_length: int) -> None:
    write(tmp_path)
    other = make_contract(context_length=context_length, features=("mem", "disk", "cpu"), targets=("cpu", "mem"))
    with opened(tmp_path, other) as state:
        rows = rows_of(state, "web-01")
        assert min(rows) == 111 - min(context_length, 8) + 1
        assert rows[111] == {name: value for name, value in whole(111.0).items() if name in other.features}
        steps = [step for step in (200, 201, 202, 204) if step > 204 - context_length]
        assert sorted(rows_of(state, "web-02")) == steps


def test_the_carried_servers_go_on(tmp_path: Path) -> None:
    write(tmp_path)
    with opened(tmp_path) as state:
        slots = [state.directory.slots[server] for server in SERVERS]
        assert set(state.find_unforecast()) == set(slots[:2])
        assert send(state, "web-02", 204, {"mem": 6.0, "net": 7.0}) == 1, "its open row went on"
        assert window_of(state, "web-02")[-1].tolist() == [5.0, 6.0, 7.0]
        assert last_status(state, "web-02") == 5


@pytest.mark.parametrize("column", ["newest", "open_step", "journal"])
@pytest.mark.parametrize("bit", [42, 60, 63])
@pytest.mark.parametrize("generation", [0, 1])
def test_an_implausible_number_of_an_early_version_leaves_its_server_behind(
    tmp_path: Path, column: str, bit: int, generation: int
) -> None:
    path = write(tmp_path, generation)
    content = bytearray(path.read_bytes())
    content[LAYOUT.offsets[column] + 8 + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with opened(tmp_path) as state:
        assert set(state.directory.slots) == {"web-01", "web-03"}
        assert state.recovered["unreadable"] == 1


def test_a_damaged_name_leaves_its_server_behind(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    content[LAYOUT.offsets["name"] + MAX_SERVER_NAME_BYTES] ^= 1
    path.write_bytes(content)
    with opened(tmp_path) as state:
        assert set(state.directory.slots) == {"web-01", "web-03"}
        assert state.recovered["unreadable"] == 1


FIELDS = (b'"capacity"', b'"step_seconds"', b'"features"', b'"context_length"', b'"kind"')


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [b"0", b"-1", b"null", b'"x"', b"true", b"[]", b"{}", b"1e3", None])
def test_an_implausible_header_of_an_early_version_is_set_aside(
    tmp_path: Path, field: bytes, value: bytes | None
) -> None:
    """Early versions wrote no checksum, so each field is checked."""
    path = write(tmp_path)
    content = make_early(bytearray(path.read_bytes()))
    text = bytes(content[len(STATE_MAGIC) : HEADER_BYTES]).rstrip(b"\0")
    if value is None:
        text = text.replace(field, field.upper())
    else:
        start = text.index(field) + len(field) + 2
        end = text.index(b', "', text.index(b"]", start) if field == b'"features"' else start)
        text = text[:start] + value + text[end:]
    path.write_bytes((STATE_MAGIC + text).ljust(HEADER_BYTES, b"\0") + content[HEADER_BYTES:])
    with opened(tmp_path) as state:
        assert len(state.set_aside) == 1
        assert len(state.directory) == 0
        assert send(state, "web-01", 400, whole(1.0)) == 0


def test_a_file_of_a_later_layout_is_set_aside(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        send(state, "web-01", 100, whole(1.0))
        layout = state.windows_file.layout
    path = tmp_path / "windows.streamd"
    layout.identity = {**layout.identity, "layout": 3}
    path.write_bytes(layout.make_header() + path.read_bytes()[HEADER_BYTES:])
    with opened(tmp_path) as state:
        assert len(state.set_aside) == 1
        assert len(state.directory) == 0


@pytest.mark.parametrize("size", [HEADER_BYTES, *(size - 1 for size in LAYOUT.earlier_sizes), LAYOUT.nbytes - 4_096])
def test_a_former_file_that_was_cut_off_is_set_aside(tmp_path: Path, size: int) -> None:
    os.truncate(write(tmp_path), size)
    with opened(tmp_path) as state:
        assert len(state.set_aside) == 1
        assert len(state.directory) == 0


def test_whole_windows_equal_windows_row_by_row(tmp_path: Path) -> None:
    write(tmp_path)
    with opened(tmp_path) as state:
        assert np.isnan(window_of(state, "web-02")[:-3]).all()
        assert state.windows.have[state.directory.slots["web-01"]] == 8
