"""Tests `streamd/runtime/waiting_links.py` against an unbounded list, and its bounds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.runtime.waiting_links import WaitingLinks

KEYS = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, st.integers(0, 3)),
        st.tuples(st.just("take"), KEYS, st.integers(0, 100)),
        st.tuples(st.just("forget"), KEYS, st.just(0)),
        st.tuples(st.just("discard"), KEYS, st.integers(0, 3)),
    ),
    max_size=60,
)
LINKS = [object() for _ in range(4)]


@settings(max_examples=50)
@given(STEPS)
def test_links_are_taken_once_in_their_order(steps: list[tuple[str, str, int]]) -> None:
    links, naive = WaitingLinks[str, object](10, 100), list[tuple[str, float, object]]()
    for now, (step, key, number) in enumerate(steps):
        if step == "add":
            links.add(key, LINKS[number], now)
            newest = [link for each, _, link in naive if each == key][-1:]
            if newest != [LINKS[number]]:
                naive.append((key, now, LINKS[number]))
        elif step == "take":
            expected = [(since, link) for each, since, link in naive if each == key and since <= number]
            assert links.take(key, number) == expected
            naive = [each for each in naive if each[0] != key or each[1] > number]
        elif step == "forget":
            links.forget(key)
            naive = [each for each in naive if each[0] != key]
        else:
            links.discard(key, LINKS[number])
            if found := [each for each in naive if each[0] == key and each[2] is LINKS[number]]:
                naive.remove(found[-1])
        assert len(links) == len({each for each, _, _ in naive})


@settings(max_examples=50)
@given(st.lists(KEYS, max_size=40))
def test_only_the_newest_are_kept(keys: list[str]) -> None:
    links = WaitingLinks[str, int](2, 3)
    for now, key in enumerate(keys):
        links.add(key, now, now)
    newest = list(dict.fromkeys(reversed(keys)))[:2]
    assert len(links) == len(newest)
    for key in newest:
        kept = [each.link for each in links.take(key)]
        # A key that was dropped in between begins anew, so it may have fewer.
        assert kept == [now for now, each in enumerate(keys) if each == key][-len(kept) :]
        assert 1 <= len(kept) <= 3
