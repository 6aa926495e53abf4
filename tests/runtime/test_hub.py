"""Tests `streamd/runtime/hub.py`.

A slow reader loses older forecasts of a server, never the newest, and gets their number.
"""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.selection import ForecastSlice, ServerGlobs
from streamd.runtime.hub import MATCHING_SECONDS, Hub, Subscription

NAMES: list[str | None] = ["web-01", "web-02", "db-01", None]
PART = ForecastSlice((0,), (0,), 1, "float32")


def make_hub(capacity: int, names: list[str | None]) -> Hub:
    return Hub(capacity, names, {name: slot for slot, name in enumerate(names) if name is not None})


def subscribe(hub: Hub, *globs: str) -> Subscription:
    return hub.subscribe(ServerGlobs(globs), PART)


STEPS = st.lists(
    st.tuples(st.sampled_from(["publish", "publish", "take", "forget"]), st.integers(0, 3), st.integers(1, 3)),
    min_size=10,
    max_size=40,
)


@given(STEPS)
def test_a_mailbox_holds_each_unread_server_once(steps: list[tuple[str, int, int]]) -> None:
    hub = make_hub(4, NAMES)
    subscription = subscribe(hub, "web-*")
    unread: list[int] = []
    dropped = 0
    for kind, slot, count in steps:
        if kind == "publish":
            hub.publish(np.array([slot]), 1.0)
            if slot in (0, 1):
                dropped += slot in unread
                unread = unread if slot in unread else [*unread, slot]
        elif kind == "take":
            assert subscription.take(count).tolist() == unread[:count]
            unread = unread[count:]
        else:
            hub.forget(slot)
            unread = [other for other in unread if other != slot]
        assert (subscription.waiting, subscription.dropped) == (len(unread), dropped)
        assert (hub.waiting, hub.dropped) == (len(unread), dropped)


CHOICES = [["*"], ["web-*"], ["web-01"], ["db-01", "web-02"], ["none"], [f"n-{number}" for number in range(99)]]
BATCHES = st.lists(st.lists(st.integers(0, 3), unique=True), max_size=8)


@given(st.lists(st.sampled_from(CHOICES), max_size=5), BATCHES, st.data())
def test_a_batch_goes_to_each_subscriber_that_chose_one_of_its_servers(
    choices: list[list[str]], batches: list[list[int]], data: st.DataObject
) -> None:
    hub = make_hub(4, NAMES)
    subscriptions = {number: subscribe(hub, *globs) for number, globs in enumerate(choices)}
    unread: dict[int, list[int]] = {number: [] for number in subscriptions}
    dropped = dict.fromkeys(subscriptions, 0)
    for batch in batches:
        hub.publish(np.array(batch, np.int64), 1.0)
        for number, subscription in subscriptions.items():
            chosen = [slot for slot in batch if (name := NAMES[slot]) and ServerGlobs(choices[number]).matches(name)]
            dropped[number] += len({*chosen} & {*unread[number]})
            unread[number] += [slot for slot in chosen if slot not in unread[number]]
            assert subscription.waiting_slots.tolist() == unread[number]
            assert subscription.dropped == dropped[number]
        assert (hub.waiting, hub.dropped) == (sum(map(len, unread.values())), sum(dropped.values()))
    for subscription in data.draw(st.permutations([*subscriptions.values()])):
        hub.unsubscribe(subscription)
        hub.publish(np.array([0, 1]), 2.0)
    assert (len(hub), hub.waiting) == (0, 0)
    assert all(subscription.closed for subscription in subscriptions.values())


def test_dropped_forecasts_are_reported_once() -> None:
    hub = make_hub(4, NAMES)
    subscription = subscribe(hub, "*")
    for _ in range(3):
        hub.publish(np.array([0, 1]), 1.0)
    assert subscription.take_newly_dropped() == 4
    assert subscription.take_newly_dropped() == 0
    assert subscription.take(9).tolist() == [0, 1]
    hub.unsubscribe(subscription)
    assert hub.dropped == 4, "losses of former subscribers still count"
    hub.unsubscribe(subscription)
    assert hub.dropped == 4


@pytest.mark.parametrize(("of_web", "of_db"), [("web-*", "db-*"), ("web-01", "db-01")])
def test_a_slot_that_gets_another_server_is_matched_again(of_web: str, of_db: str) -> None:
    names: list[str | None] = ["web-01"]
    hub = make_hub(1, names)
    web, db = subscribe(hub, of_web), subscribe(hub, of_db)
    hub.publish(np.array([0]), 1.0)
    assert (web.take(1).tolist(), db.take(1).tolist()) == ([0], [])
    hub.forget(0)
    names[0] = "db-01"
    hub.publish(np.array([0]), 1.0)
    assert (web.take(1).tolist(), db.take(1).tolist()) == ([], [0])


def test_a_subscription_by_name_that_begins_later_gets_its_server() -> None:
    hub = make_hub(4, NAMES)
    first = subscribe(hub, "web-01")
    hub.publish(np.array([0, 1, 2]), 1.0)
    second = subscribe(hub, "web-02", "db-01")
    hub.publish(np.array([0, 1, 2]), 2.0)
    assert (first.take(9).tolist(), second.take(9).tolist()) == ([0], [1, 2])
    hub.unsubscribe(first)
    hub.publish(np.array([0, 1]), 3.0)
    assert (first.waiting, second.take(9).tolist()) == (0, [1])


async def test_forecasts_on_the_board_are_replayed_to_one_subscriber() -> None:
    hub = make_hub(4, NAMES)
    late, other = subscribe(hub, "web-*"), subscribe(hub, "*")
    await hub.replay(late, np.array([2, 1, 0, 3]))
    assert late.take(9).tolist() == [1, 0]
    assert other.waiting == 0


async def test_a_reader_waits_until_the_mailbox_is_not_empty() -> None:
    hub = make_hub(4, NAMES)
    subscription = subscribe(hub, "*")
    reader = asyncio.create_task(subscription.wait())
    await asyncio.sleep(0)
    assert not reader.done()
    hub.publish(np.array([3]), 1.0)
    await asyncio.sleep(0)
    assert not reader.done(), "a slot without a server is not posted"
    hub.publish(np.array([2]), 1.0)
    await reader
    await subscription.wait()  # the forecast is still in the mailbox
    subscription.take(1)
    again = asyncio.create_task(subscription.wait())
    await asyncio.sleep(0)
    assert not again.done()
    subscription.close()
    await again


async def test_finishing_waits_for_every_reader() -> None:
    hub = make_hub(4, NAMES)
    subscriptions = [subscribe(hub, "*"), subscribe(hub, "db-*")]
    hub.publish(np.array([0, 2]), 1.0)
    finishing = asyncio.create_task(hub.finish())
    await asyncio.sleep(0)
    for subscription in subscriptions:
        await subscription.wait()
        assert subscription.closed
        assert not finishing.done()
        subscription.take(9)
        hub.unsubscribe(subscription)
        await asyncio.sleep(0)
    await finishing
    assert len(hub) == 0


COSTLY = "*[-x]0?"
"""A glob that is decided by the reader; it matches every server of `NAMES`."""


class CountedGlobs(ServerGlobs):
    """Globs that count their matches."""

    def __init__(self, *globs: str) -> None:
        super().__init__(globs)
        self.asked: list[str] = []

    def matches(self, name: str) -> bool:
        self.asked.append(name)
        return super().matches(name)


async def test_costly_globs_are_matched_by_their_reader_once_for_each_server() -> None:
    hub = make_hub(4, NAMES)
    globs = CountedGlobs(COSTLY, "web-01")
    assert globs.is_costly
    subscription = hub.subscribe(globs, PART)
    for _ in range(3):
        hub.publish(np.array([0, 2]), 1.0)
    assert globs.asked == []
    assert subscription.waiting_slots.tolist() == [0, 2], "the id of an event stays below each that may be sent"
    await subscription.wait()
    assert subscription.take(9).tolist() == [0, 2]
    assert subscription.dropped == 4, "forecasts that were replaced before they were matched count too"
    hub.publish(np.array([0]), 2.0)
    assert subscription.take(9).tolist() == [0], "it is decided now"
    assert globs.asked == ["web-01", "db-01"]


async def test_a_server_that_is_forgotten_before_it_is_matched_is_not_delivered() -> None:
    hub = make_hub(4, NAMES)
    subscription = subscribe(hub, COSTLY)
    hub.publish(np.array([0, 2]), 1.0)
    hub.forget(0)
    await subscription.wait()
    assert subscription.take(9).tolist() == [2]


async def test_a_closed_subscription_still_matches_what_was_posted() -> None:
    hub = make_hub(4, NAMES)
    chosen, other = subscribe(hub, COSTLY), subscribe(hub, "?")
    hub.publish(np.array([0]), 1.0)
    for subscription in (chosen, other):
        subscription.close()
        await subscription.wait()
    assert (chosen.waiting, other.waiting) == (1, 0)


async def test_matching_thousands_of_servers_gives_way_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str | None] = [f"web-{number}" for number in range(2_500)]
    hub, now = make_hub(len(names), names), 0.0

    class SlowGlobs(CountedGlobs):
        """Globs of which each match takes a millisecond."""

        def matches(self, name: str) -> bool:
            nonlocal now
            now += 1e-3
            return super().matches(name)

    monkeypatch.setattr("streamd.runtime.hub.time", SimpleNamespace(monotonic=lambda: now))
    subscription = hub.subscribe(SlowGlobs("*-[0-9]*", COSTLY), PART)
    turns, longest = 0, 0.0

    async def count_turns() -> None:
        nonlocal turns, longest
        while True:
            began = now
            await asyncio.sleep(0)
            turns, longest = turns + 1, max(longest, now - began)

    counting = asyncio.create_task(count_turns())
    await hub.replay(subscription, np.arange(len(names)))
    assert turns >= 1, "not all are posted in one turn"
    await subscription.wait()
    counting.cancel()
    assert subscription.waiting == len(names)
    assert longest < 3 * MATCHING_SECONDS
    assert turns > len(names) * 1e-3 / MATCHING_SECONDS / 2


async def test_a_newer_forecast_during_the_replay_does_not_count_as_dropped() -> None:
    hub = make_hub(4, NAMES)
    subscription = subscribe(hub, "*")
    hub.publish(np.array([1]), 1.0)
    await hub.replay(subscription, np.array([0, 1]))
    assert (subscription.take(9).tolist(), subscription.dropped) == ([1, 0], 0)
