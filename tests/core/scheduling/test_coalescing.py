"""Tests `streamd/core/scheduling/coalescing.py` against a list: the newest item of a key wins."""

from hypothesis import given
from hypothesis import strategies as st

from streamd.core.scheduling.coalescing import CoalescingQueue

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["mark", "mark", "mark", "take", "discard", "clear"]), st.integers(0, 4), st.integers(1, 3)
    ),
    max_size=60,
)


@given(STEPS)
def test_the_queue_is_a_list_in_which_a_key_keeps_its_place(steps: list[Step]) -> None:
    waiting: CoalescingQueue[int] = CoalescingQueue()
    naive: list[tuple[int, float]] = []  # (key, since), the longest waiting first
    items = left = 0
    for now, (kind, key, number) in enumerate(steps):
        keys = [key for key, _ in naive]
        if kind == "mark":
            items += number
            waiting.mark(key, float(now), number)
            if key not in keys:
                naive.append((key, float(now)))
        elif kind == "take":
            left += min(number, len(naive))
            assert waiting.take(number) == keys[:number]
            naive = naive[number:]
        elif kind == "discard":
            left += key in keys
            assert waiting.discard(key) == (key in keys)
            naive = [pair for pair in naive if pair[0] != key]
        else:
            left += len(naive)
            waiting.clear()
            naive = []
        assert list(waiting) == [key for key, _ in naive]
        assert len(waiting) == len(naive)
        assert waiting.oldest_since == (naive[0][1] if naive else None)
        assert [key in waiting for key in range(5)] == [key in dict(naive) for key in range(5)]
        assert items == waiting.superseded + left + len(naive), "every item is taken, removed, replaced, or waits"
    for key, since in naive:
        assert waiting.oldest_since == since
        assert waiting.take(1) == [key]


def test_its_repr_shows_its_counts() -> None:
    waiting: CoalescingQueue[str] = CoalescingQueue()
    waiting.mark("a", 1.0)
    waiting.mark("a", 2.0)
    assert repr(waiting) == "CoalescingQueue(waiting=1, superseded=1)"
