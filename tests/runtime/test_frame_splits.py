"""Tests `streamd/runtime/frame_splits.py` and `workers/ownership.py`: each row is in the piece of its owner."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.arrays import Numbers
from streamd.core.state.column_frames import ColumnFrame, NameList
from streamd.runtime.frame_splits import split_frame
from streamd.runtime.workers.ownership import find_owning_worker, find_owning_workers


@given(st.lists(st.text(max_size=8), min_size=1, max_size=30), st.integers(1, 5), st.booleans())
def test_pieces_are_the_rows_of_each_owner_in_order(names: list[str], workers: int, has_times: bool) -> None:
    count = len(names)
    times: Any = [float(row) for row in range(count)] if has_times else 5.0
    values = np.arange(2.0 * count).reshape(count, 2)
    frame = ColumnFrame(servers=NameList(names), features=NameList(["a", "b"]), time=times, values=values)

    def find_owners(servers: Sequence[str]) -> Numbers:
        return find_owning_workers(servers, workers)

    pieces = split_frame(frame, find_owners)
    assert split_frame(frame, find_owners) is pieces, "it is remembered at the list"
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
