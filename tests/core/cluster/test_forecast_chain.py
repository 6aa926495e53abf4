"""Tests `streamd/core/cluster/forecast_chain.py`: one entry at a time, and no row twice."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.chain_entries import ChainEntry, ChainGapError, EntryKind, FencedError
from streamd.core.cluster.forecast_chain import ChainState, ForecastChain
from streamd.core.cluster.shards import STEP_PARTS, find_step_part


def marker(sequence: int, fence: int) -> ChainEntry:
    return ChainEntry(kind=EntryKind.MARKER, fence=fence, sequence=sequence)


def batch(sequence: int, fence: int, steps: Mapping[str, int]) -> ChainEntry:
    return ChainEntry(kind=EntryKind.BATCH, fence=fence, sequence=sequence, steps=steps)


def record(sequence: int, part: int, steps: Mapping[str, int], fence: int = 5) -> ChainEntry:
    return ChainEntry(kind=EntryKind.RECORD, fence=fence, sequence=sequence, part=part, steps=steps)


def make_owner(fence: int = 5) -> ForecastChain:
    """The owner of a chain that has its marker alone."""
    chain = load([])
    chain.begin_claim(fence)
    chain.confirm(1)
    return chain


def load(entries: Iterable[ChainEntry], last: int | None = None) -> ForecastChain:
    chain = ForecastChain()
    for entry in entries:
        chain.load(entry)
    chain.finish_loading(chain.position if last is None else last)
    return chain


def append(chain: ForecastChain, steps: Mapping[str, int]) -> list[str]:
    """Append a batch that the log takes."""
    chain.begin_batch(steps)
    return chain.confirm(chain.position + 1)


# ---------------------------------------------------------------- what may go
@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 20), min_size=1), max_size=12), st.data())
def test_what_may_go_has_no_newest_forecast(batches: list[dict[str, int]], data: st.DataObject) -> None:
    chain = make_owner()
    places: dict[str, int] = {}
    for steps in batches:
        new = {server: step for server, step in steps.items() if (chain.find_step(server) or -1) < step}
        append(chain, new)
        places |= dict.fromkeys(new, chain.position)
    for part in range(STEP_PARTS):
        begun = chain.begin_record()
        assert begun is not None, part
        chain.confirm(chain.position + 1)
    below = data.draw(st.integers(0, chain.position + 1))
    most = data.draw(st.integers(0, 6))
    assert chain.superseded_below == min([chain.purge_below, *places.values()])
    limited = chain.limit_forecasts(below, most)
    assert limited <= below
    assert len(chain.list_forecasts(limited)) <= most
    assert limited == below or sum(place <= limited for place in places.values()) > most
    steps = dict(chain.steps)
    chain.note_removed(below)
    left = [place for place in places.values() if place >= below]
    assert (chain.forecasts, dict(chain.steps)) == (len(left), steps)
    assert chain.superseded_below == min([chain.purge_below, *left])


# ---------------------------------------------------------------- owning
def test_an_owner_begins_with_its_marker() -> None:
    chain = load([])
    assert chain.begin_claim(5) == ChainEntry(kind=EntryKind.MARKER, fence=5)
    assert chain.confirm(1) == []
    assert (chain.state, chain.fence, chain.position) == (ChainState.OWNING, 5, 1)


def test_only_an_owner_appends() -> None:
    chain = load([])
    with pytest.raises(FencedError, match="following"):
        chain.begin_batch({"a": 1})
    chain.begin_claim(5)
    with pytest.raises(FencedError, match="claiming"):
        chain.begin_record()


def test_one_append_is_in_flight_at_a_time() -> None:
    chain = make_owner()
    chain.begin_batch({"a": 1})
    assert chain.is_appending
    with pytest.raises(FencedError, match="in flight"):
        chain.begin_batch({"b": 1})
    assert chain.confirm(2) == ["a"]
    assert append(chain, {"b": 1}) == ["b"]


def test_only_steps_after_the_newest_one_are_selected_each_server_once() -> None:
    chain = make_owner()
    append(chain, {"a": 7})
    assert chain.select([("a", 6), ("a", 8), ("b", 1), ("c", 2), ("c", 2)]) == [False, False, True, True, False]
    assert chain.select([("a", 7)]) == [False]
    assert chain.select([("a", 8)]) == [True]


def test_an_answer_that_comes_after_its_entry_was_read_changes_nothing() -> None:
    chain = make_owner()
    entry = chain.begin_batch({"a": 1})
    assert chain.apply(replace(entry, sequence=2)) == ["a"]
    assert not chain.is_appending
    assert chain.confirm(2) == []
    assert chain.position == 2


def test_an_append_without_an_answer_is_made_again_or_abandoned() -> None:
    chain = make_owner()
    first = chain.begin_batch({"a": 1})
    chain.doubt()
    chain.begin_batch({"a": 2})
    chain.reject(2)  # the first one is stored after all
    with pytest.raises(FencedError, match="tail"):
        chain.begin_batch({"a": 2})
    assert chain.apply(replace(first, sequence=2)) == ["a"]
    assert chain.select([("a", 1), ("b", 1)]) == [False, True]


def test_a_rejected_append_whose_last_sequence_is_unknown_is_read_for() -> None:
    chain = make_owner()
    chain.begin_batch({"a": 1})
    chain.reject(None)
    assert chain.must_read
    chain.apply(batch(2, 5, {"a": 1}))
    assert not chain.must_read


# ---------------------------------------------------------------- fences
def test_a_later_marker_ends_an_owner() -> None:
    chain = make_owner(fence=5)
    chain.begin_batch({"a": 1})
    chain.reject(2)
    chain.apply(marker(2, fence=9))
    assert chain.state is ChainState.FENCED
    with pytest.raises(FencedError, match="fenced"):
        chain.begin_batch({"a": 1})


def test_a_later_marker_ends_a_claim() -> None:
    chain = load([])
    chain.begin_claim(5)
    chain.reject(1)
    chain.apply(marker(1, fence=9))
    assert chain.state is ChainState.FENCED


def test_a_claim_goes_on_after_an_earlier_owner_appended() -> None:
    chain = load([marker(1, fence=3)])
    chain.begin_claim(5)
    chain.reject(2)
    assert chain.apply(batch(2, 3, {"a": 4})) == ["a"]
    chain.begin_claim(5)
    chain.confirm(3)
    assert chain.state is ChainState.OWNING
    assert chain.select([("a", 4)]) == [False]


def test_the_own_marker_that_is_read_makes_an_owner() -> None:
    chain = load([])
    entry = chain.begin_claim(5)
    chain.doubt()
    chain.apply(replace(entry, sequence=1))
    assert chain.state is ChainState.OWNING


@pytest.mark.parametrize("fence", [5, 4])
def test_a_fence_that_is_not_later_cannot_claim(fence: int) -> None:
    chain = load([marker(1, fence=5)])
    with pytest.raises(FencedError, match=f"fence 5; {fence} is not later"):
        chain.begin_claim(fence)
    assert chain.state is ChainState.FENCED


def test_an_entry_of_a_former_owner_after_the_marker_is_passed_over() -> None:
    """It cannot be stored; a log that stores it all the same does no harm."""
    chain = load([marker(1, fence=5), batch(2, 5, {"a": 1}), marker(3, fence=9)])
    assert chain.apply(batch(4, 5, {"a": 2})) == []
    assert chain.find_step("a") == 1
    assert chain.fenced_entries == 1
    assert chain.apply(batch(5, 9, {"a": 2})) == ["a"]


def test_an_owner_that_resigned_follows_and_may_claim_later() -> None:
    chain = make_owner(fence=5)
    chain.resign()
    assert chain.apply(marker(2, fence=6)) == []
    chain.begin_claim(8)
    chain.confirm(3)
    assert chain.state is ChainState.OWNING


# ---------------------------------------------------------------- what is missing
def test_a_follower_notices_a_missing_entry() -> None:
    chain = load([marker(1, fence=5)])
    with pytest.raises(ChainGapError, match="lacks entry 2; 3 came"):
        chain.apply(batch(3, 5, {"a": 1}))
    assert chain.state is ChainState.FOLLOWING


def test_an_owner_that_misses_an_entry_is_fenced() -> None:
    chain = make_owner()
    with pytest.raises(ChainGapError):
        chain.apply(batch(3, 5, {"a": 1}))
    assert chain.state is ChainState.FENCED


def test_an_owner_whose_log_lost_entries_is_fenced() -> None:
    chain = make_owner()
    append(chain, {"a": 1})
    chain.begin_batch({"a": 2})
    chain.reject(1)
    assert chain.state is ChainState.FENCED


def test_a_chain_from_which_entries_were_removed_says_so_and_can_be_used() -> None:
    chain = ForecastChain()
    chain.load(batch(4, 5, {"a": 1}))
    with pytest.raises(ChainGapError, match="from 1 to 3"):
        chain.finish_loading(4)
    assert chain.apply(batch(5, 5, {"a": 2})) == ["a"]


def test_a_chain_that_was_emptied_says_so() -> None:
    with pytest.raises(ChainGapError, match="from 1 to 7"):
        load([], last=7)


# ---------------------------------------------------------------- records
def test_records_take_turns_until_nothing_but_records_came() -> None:
    chain = make_owner()
    append(chain, {f"server-{number}": number for number in range(50)})
    assert chain.purge_below == 0, "no part has a record"
    parts = []
    while (entry := chain.begin_record()) is not None:
        assert all(find_step_part(server) == entry.part for server in entry.steps)
        chain.confirm(chain.position + 1)
        parts.append(entry.part)
    assert parts == list(range(STEP_PARTS))
    assert chain.purge_below == 3
    append(chain, {"server-1": 99})
    again = chain.begin_record()
    assert again is not None
    assert again.part == 0


def test_a_chain_loads_from_records_and_what_came_after_the_oldest() -> None:
    records = [record(10 + part, part, {f"s{part}": part}) for part in range(STEP_PARTS)]
    chain = load([*records, batch(18, 5, {"s0": 7, "new": 1})])
    assert chain.find_step("s0") == 7
    assert chain.find_step("s3") == 3
    assert chain.find_step("new") == 1
    assert chain.purge_below == 10


def test_a_chain_that_lacks_entries_after_its_oldest_record_says_so() -> None:
    records = [record(10 + part, part, {}) for part in range(STEP_PARTS)]
    with pytest.raises(ChainGapError, match="from 11 to 18"):
        load([*records, batch(19, 5, {})])


def test_a_follower_goes_on_behind_a_hole_and_is_whole_again_once_records_cover_it() -> None:
    chain = load([marker(1, fence=5), batch(2, 5, {"a": 1})])
    assert chain.follow(batch(5, 5, {"b": 2})) == ["b"]
    with pytest.raises(ChainGapError, match="from 1 to 4"):
        chain.begin_claim(9)
    for part in range(STEP_PARTS):
        chain.follow(record(6 + part, part, {"a": 3} if part == find_step_part("a") else {}))
    assert chain.is_whole
    chain.begin_claim(9)


def test_a_record_has_all_servers_of_its_part() -> None:
    """One that was forgotten in an entry that was missed is gone, and one that began anew has a lower step."""
    part = find_step_part("a")
    chain = load([marker(1, fence=5), batch(2, 5, {"a": 7})])
    chain.follow(record(4, part, {"a": 3}))
    assert chain.find_step("a") == 3
    chain.follow(record(5, part, {}))
    assert chain.find_step("a") is None
    assert chain.list_forecasts(below=9) == []


def test_a_forecast_that_is_appended_again_has_another_place_and_is_not_new() -> None:
    chain = make_owner()
    append(chain, {"a": 7, "b": 8})
    assert chain.list_forecasts(below=3) == ["a", "b"]
    assert append(chain, {"a": 7}) == []
    assert chain.list_forecasts(below=3) == ["b"]
    assert chain.forecasts == 2


# ---------------------------------------------------------------- servers that are deleted
def test_a_deleted_server_begins_again() -> None:
    chain = make_owner()
    append(chain, {"a": 7})
    assert chain.select([("a", 3)], forgotten=["a"]) == [True]
    chain.begin_batch({"a": 3}, forgotten=["a"], forgot_rows=40)
    assert chain.confirm(3) == ["a"]
    assert (chain.find_step("a"), chain.forgot_rows) == (3, 40)


def test_a_new_owner_reads_the_orders_to_forget_that_the_chain_has_first() -> None:
    gone = ChainEntry(kind=EntryKind.BATCH, fence=5, sequence=2, forgotten=["a"], forgot_rows=40)
    chain = load([marker(1, fence=5), gone])
    assert chain.needs_rows(39)
    assert not chain.needs_rows(40)


def test_records_keep_which_orders_to_forget_the_chain_has() -> None:
    chain = make_owner()
    chain.begin_batch({}, forgotten=["a"], forgot_rows=40)
    chain.confirm(2)
    entry = chain.begin_record()
    assert entry is not None
    assert entry.forgot_rows == 40


def test_servers_that_can_report_no_such_row_any_more_are_removed() -> None:
    chain = make_owner()
    append(chain, {"a": 7, "b": 9})
    assert chain.drop_steps(below=8) == ["a"]
    assert dict(chain.steps) == {"b": 9}


# ---------------------------------------------------------------- against a naive model
servers = st.sampled_from(["a", "b", "c", "d", "e"])
batches = st.dictionaries(servers, st.integers(0, 20), max_size=4)


@given(st.lists(st.tuples(batches, st.integers(0, 3), st.lists(servers, max_size=1))))
def test_a_chain_that_is_loaded_after_purges_has_the_steps_that_all_its_entries_have(
    appends: list[tuple[dict[str, int], int, list[str]]],
) -> None:
    """Whatever is appended, recorded and purged, who loads what is left knows what its owner knows."""
    owner = make_owner()
    content = {1: marker(1, fence=5)}
    steps: dict[str, int] = {}

    def store(entry: ChainEntry) -> None:
        sequence = owner.position + 1
        if entry.kind is EntryKind.RECORD:
            for at in [at for at, each in content.items() if (each.kind, each.part) == (entry.kind, entry.part)]:
                del content[at]
        content[sequence] = replace(entry, sequence=sequence)
        owner.confirm(sequence)

    for number, (wanted, records, forgotten) in enumerate(appends):
        chosen = owner.select(wanted.items(), forgotten)
        batch_steps = {pair[0]: pair[1] for pair, is_new in zip(wanted.items(), chosen, strict=True) if is_new}
        store(owner.begin_batch(batch_steps, forgotten, number if forgotten else 0))
        for server in forgotten:
            steps.pop(server, None)
        steps |= batch_steps
        for _ in range(records):
            if (entry := owner.begin_record()) is not None:
                store(entry)
        for at in [at for at, each in content.items() if at < owner.purge_below and each.kind is not EntryKind.RECORD]:
            del content[at]
    loaded = load(content[at] for at in sorted(content))
    assert dict(loaded.steps) == dict(owner.steps) == steps
    assert (loaded.position, loaded.fence, loaded.forgot_rows) == (owner.position, 5, owner.forgot_rows)
    assert loaded.purge_below == owner.purge_below
