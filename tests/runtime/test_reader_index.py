"""Tests `streamd/runtime/reader_index.py`: each reader is found by what it chose, until it is removed."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from streamd.runtime.reader_index import ReaderIndex

NAMES = "abc"


@dataclass(frozen=True, eq=False)
class Reader:
    indexed_names: frozenset[str]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.frozensets(st.sampled_from(NAMES)))))
def test_a_name_finds_the_readers_that_chose_it_and_no_others(steps: list[tuple[bool, int, frozenset[str]]]) -> None:
    index: ReaderIndex[Reader] = ReaderIndex()
    added: dict[int, Reader] = {}
    for adds, number, names in steps:
        if adds and number not in added:
            added[number] = Reader(names)
            index.add(added[number])
        elif not adds:
            reader = added.pop(number, None)
            assert index.discard(reader or Reader(names)) is (reader is not None)
        readers = set(added.values())
        assert set(index) == readers
        assert len(index) == len(readers)
        assert index.wide == {each for each in readers if not each.indexed_names}
        for name in NAMES:
            assert index.by_name.get(name, set()) == {each for each in readers if name in each.indexed_names}
        assert bool(index.by_name) == any(each.indexed_names for each in readers)
