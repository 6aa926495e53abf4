"""Tests `streamd/runtime/aggregation/final_rows.py`: late points of rows whose other points are gone."""

import struct
from pathlib import Path

import pytest

from tests.support.collector_rig import BEGIN, collecting


async def test_a_late_point_of_a_row_that_the_log_gives_again_amends_it(tmp_path: Path) -> None:
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 310
        await rig.send(("a", "load", 0, 1.0), ("a", "load", 301, 9.0))
    with collecting(tmp_path, rig.wall) as rig:
        result = await rig.send(("a", "load", 60, 3.0))
        assert (result.taken, result.rejected) == (1, 0)
        assert rig.rows("a") == {0: {"mem": 2.0}}


@pytest.mark.parametrize("damage", ["first record", "whole log"])
async def test_a_late_point_does_not_replace_a_row_whose_other_points_are_gone(tmp_path: Path, damage: str) -> None:
    with collecting(tmp_path) as rig:
        rig.wall = BEGIN + 310
        await rig.send(("a", "load", 0, 1.0), ("a", "load", 10, 5.0))
        await rig.send(("a", "load", 301, 9.0))
    (path,) = (tmp_path / "points").iterdir()
    content = bytearray(path.read_bytes())
    points = content.index(struct.pack("<d", 5.0))
    content[points : points + 1 if damage == "first record" else None] = b"\1"
    path.write_bytes(content if damage == "first record" else b"")
    with collecting(tmp_path, rig.wall) as rig:
        result = await rig.send(("a", "load", 60, 30.0))
        assert (result.taken, [error.code for error in result.errors]) == (0, ["too_old"])
        assert rig.rows("a") == {0: {"mem": 3.0}}
        rig.wall = BEGIN + 910
        await rig.send(("a", "load", 320, 11.0), ("a", "load", 601, 9.0))
        assert rig.rows("a")[1] == {"mem": 10.0 if damage == "first record" else 11.0}
