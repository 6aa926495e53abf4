"""Tests `streamd/runtime/workers/splits.py` and `ownership.py`: each row of a frame is in the piece of its owner."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.state.column_frames import ColumnFrame, NameList
from streamd.runtime.workers.ownership import find_owning_worker
from streamd.runtime.workers.splits import split_frame


@given(st.lists(st.text(max_size=8), min_size=1, max_size=30), st.integers(1, 5), st.booleans())
def test_pieces_are_the_rows_of_each_owner_in_order(names: list[str], workers: int, has_times: bool) -> None:
    count = len(names)
    times: Any = [float(row) for row in range(count)] if has_times else 5.0
    values = np.arange(2.0 * count).reshape(count, 2)
    frame = ColumnFrame(servers=NameList(names), features=NameList(["a", "b"]), time=times, values=values)
    pieces = split_frame(frame, workers)
    assert split_frame(frame, workers) is pieces, "it is remembered at the list"
    for owner in range(workers):
        rows = [row for row, name in enumerate(names) if find_owning_worker(name, workers) == owner]
        assert (owner in pieces) == bool(rows)
        if rows:
            part = pieces[owner].cut(frame)
            assert part.servers.names == [names[row] for row in rows]
            assert part.time == ([float(row) for row in rows] if has_times else 5.0)
            assert part.values.tolist() == values[rows].tolist()


def test_an_owner_depends_on_the_name_alone() -> None:
    assert [find_owning_worker(name, 4) for name in ("web-01", "web-02", "äöü", "\ud800")] == [1, 3, 3, 0]
