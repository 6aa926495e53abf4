"""Tests `streamd/core/scheduling/batches.py`: columns of rows behave as a list of items does."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.scheduling.batches import Batch, Item, RequestItem, ServerItem, ServerRows, join_rows

NUMBERS = st.integers(0, 5)
ITEMS = st.lists(st.builds(ServerItem, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS.map(float)), max_size=12)
REQUESTS = st.lists(st.builds(RequestItem, st.sampled_from("ab"), NUMBERS, NUMBERS.map(float)), max_size=4)


def make_rows(items: list[ServerItem]) -> ServerRows:
    columns: dict[str, Any] = {
        name: np.array([getattr(item, name[:-1] if name != "since" else name) for item in items], dtype)
        for name, dtype in (
            *((name, np.int64) for name in ("slots", "generations", "steps", "contexts")),
            ("since", np.float64),
        )
    }
    return ServerRows(**columns)


@given(ITEMS, st.data())
def test_rows_are_selected_as_items_are(items: list[ServerItem], data: st.DataObject) -> None:
    rows = make_rows(items)
    assert (len(rows), rows.list_items()) == (len(items), items)
    mask = data.draw(st.lists(st.booleans(), min_size=len(items), max_size=len(items)))
    chosen = [item for item, is_chosen in zip(items, mask, strict=True) if is_chosen]
    assert rows.select(np.array(mask, np.bool_)).list_items() == chosen
    assert rows.select(np.flatnonzero(mask)).list_items() == chosen
    assert rows.select(slice(1, 3)).list_items() == items[1:3]


@given(ITEMS)
def test_rows_are_sorted_by_step_and_keep_their_order_within_one(items: list[ServerItem]) -> None:
    assert make_rows(items).sort_by_step().list_items() == sorted(items, key=lambda item: item.step)


@given(st.lists(ITEMS, max_size=3))
def test_parts_are_joined_in_order(parts: list[list[ServerItem]]) -> None:
    joined = join_rows([make_rows(part) for part in parts])
    assert joined.list_items() == [item for part in parts for item in part]


@given(ITEMS, REQUESTS, st.integers(0, 20), st.integers(0, 1))
def test_a_batch_is_split_as_a_list_is(
    items: list[ServerItem], requests: list[RequestItem], count: int, moves: int
) -> None:
    everything: list[Item] = [*items, *requests]
    batch = Batch(make_rows(items), requests, moves, started=3.0)
    assert (len(batch), batch.list_items()) == (len(everything), everything)
    assert batch.find_oldest_since() == min((item.since for item in everything), default=None)
    first, rest = batch.split(count)
    assert (first.list_items(), rest.list_items()) == (everything[:count], everything[count:])
    assert first.moves == rest.moves == moves


def test_an_empty_batch_has_no_window() -> None:
    batch = Batch()
    assert (len(batch), batch.list_items(), batch.find_oldest_since()) == (0, [], None)
