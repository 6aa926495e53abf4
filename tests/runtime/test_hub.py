"""Tests `streamd/runtime/hub.py`.

A slow reader loses older forecasts of a server, never the newest, and gets their number.
"""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from streamd.core.selection import ForecastSlice, ServerGlobs
from streamd.runtime.hub import Hub, Subscription

NAMES: list[str | None] = ["web-01", "web-02", "db-01", None]
PART = ForecastSlice((0,), (0,), 1, "float32")


def subscribe(hub: Hub, *globs: str) -> Subscription:
    return hub.subscribe(ServerGlobs(globs), PART)


STEPS = st.lists(
    st.tuples(st.sampled_from(["publish", "publish", "take", "forget"]), st.integers(0, 3), st.integers(1, 3)),
    min_size=10,
    max_size=40,
)


@given(STEPS)
def test_a_mailbox_holds_each_unread_server_once(steps: list[tuple[str, int, int]]) -> None:
    hub = Hub(4, NAMES)
    subscription = subscribe(hub, "web-*")
    unread: list[int] = []
    dropped = 0
    for kind, slot, count in steps:
        if kind == "publish":
            hub.publish([slot], 1.0)
            if slot in (0, 1):
                dropped += slot in unread
                unread = unread if slot in unread else [*unread, slot]
        elif kind == "take":
            assert subscription.take(count) == unread[:count]
            unread = unread[count:]
        else:
            hub.forget(slot)
            unread = [other for other in unread if other != slot]
        assert (subscription.waiting, subscription.dropped) == (len(unread), dropped)
        assert (hub.waiting, hub.dropped) == (len(unread), dropped)


def test_dropped_forecasts_are_reported_once() -> None:
    hub = Hub(4, NAMES)
    subscription = subscribe(hub, "*")
    for _ in range(3):
        hub.publish([0, 1], 1.0)
    assert subscription.take_newly_dropped() == 4
    assert subscription.take_newly_dropped() == 0
    assert subscription.take(9) == [0, 1]
    hub.unsubscribe(subscription)
    assert hub.dropped == 4, "losses of former subscribers still count"
    hub.unsubscribe(subscription)
    assert hub.dropped == 4


def test_a_slot_that_gets_another_server_is_matched_again() -> None:
    names: list[str | None] = ["web-01"]
    hub = Hub(1, names)
    web, db = subscribe(hub, "web-*"), subscribe(hub, "db-*")
    hub.publish([0], 1.0)
    assert (web.take(1), db.take(1)) == ([0], [])
    hub.forget(0)
    names[0] = "db-01"
    hub.publish([0], 1.0)
    assert (web.take(1), db.take(1)) == ([], [0])


def test_forecasts_on_the_board_are_replayed_to_one_subscriber() -> None:
    hub = Hub(4, NAMES)
    late, other = subscribe(hub, "web-*"), subscribe(hub, "*")
    hub.replay(late, [2, 1, 0, 3])
    assert late.take(9) == [1, 0]
    assert other.waiting == 0


async def test_a_reader_waits_until_the_mailbox_is_not_empty() -> None:
    hub = Hub(4, NAMES)
    subscription = subscribe(hub, "*")
    reader = asyncio.create_task(subscription.wait())
    await asyncio.sleep(0)
    assert not reader.done()
    hub.publish([3], 1.0)
    await asyncio.sleep(0)
    assert not reader.done(), "a slot without a server is not posted"
    hub.publish([2], 1.0)
    await reader
    await subscription.wait()  # the forecast is still in the mailbox
    subscription.take(1)
    again = asyncio.create_task(subscription.wait())
    await asyncio.sleep(0)
    assert not again.done()
    subscription.close()
    await again


async def test_finishing_waits_for_every_reader() -> None:
    hub = Hub(4, NAMES)
    subscriptions = [subscribe(hub, "*"), subscribe(hub, "db-*")]
    hub.publish([0, 2], 1.0)
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
