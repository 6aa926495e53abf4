"""Tests `streamd/cluster/alerts/owned_record.py`: one record under a fence, whose writer may be cut off at any
moment.
"""

import asyncio
from collections.abc import Sequence

import pytest

from streamd.cluster.alerts.alert_records import AlertRecord, decode_record, encode_record
from streamd.cluster.alerts.owned_record import OwnedAlertRecord, PartState
from streamd.cluster.log import Entry
from streamd.runtime.alerts.alert import AlertChange, AlertState
from streamd.runtime.alerts.store import DeliveryMark, StoredChange
from tests.support.alert_nodes import NAMES, make_log, wait_until
from tests.support.made_alerts import make_alert, make_change, make_resolved_alert
from tests.support.made_log import MemoryLog

KEY = "shard.0.0"


class Owner:
    """A node that may own the record; `entries` is what it has read of the table."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.table = log.table(NAMES.bucket("alerts"))
        self.entries: dict[str, Entry] = {}
        self.shown: list[str] = []
        self.fenced = 0

    async def start(self) -> None:
        await self.table.watch(self._see)

    def _see(self, key: str, entry: Entry | None) -> None:
        assert entry is not None
        self.entries[key] = entry

    def _show(self, part: OwnedAlertRecord, changes: Sequence[AlertChange]) -> None:
        self.shown += [change.alert.server for change in changes]

    def _note_fenced(self, part: OwnedAlertRecord) -> None:
        self.fenced += 1

    def make(self, fence: int, max_resolved: int = 10) -> OwnedAlertRecord:
        return OwnedAlertRecord(
            KEY,
            fence,
            self.table,
            find_entry=self.entries.get,
            show=self._show,
            fenced=self._note_fenced,
            max_resolved=max_resolved,
        )


async def make_owners(count: int) -> list[Owner]:
    log = make_log()
    owners = [Owner(log.connect()) for _ in range(count)]
    for owner in owners:
        await owner.start()
    return owners


def fired(server: str) -> list[StoredChange]:
    return [StoredChange(make_change(make_alert(server=server)), "print", 0)]


def read(owner: Owner) -> list[str]:
    """Return the servers of the active alerts that the table has."""
    return [each.alert.server for each in decode_record(owner.entries[KEY].value).active]


def read_marks(owner: Owner) -> list[str]:
    entry = owner.entries.get(KEY)
    return [] if entry is None else sorted(each.key[1] for each in decode_record(entry.value).marks)


async def test_a_burst_of_ten_thousand_alerts_is_a_few_writes() -> None:
    (owner,) = await make_owners(1)
    part = owner.make(1)
    assert await part.claim()
    before = owner.log.appends
    for number in range(10_000):
        part.take(fired(f"db-{number}"))
    await wait_until(lambda: len(owner.shown) == 10_000, "all are shown")
    assert owner.log.appends - before <= 3
    assert len(read(owner)) == 10_000
    await part.end()


async def test_a_later_owner_is_not_overwritten_and_the_former_one_is_told() -> None:
    former, later = await make_owners(2)
    part = former.make(1)
    assert await part.claim()
    part.take(fired("a"))
    await wait_until(lambda: former.shown == ["a"])
    successor = later.make(2)
    assert await successor.claim()
    assert list(successor.active) == [("disk_fills", "a")]
    part.take(fired("b"))
    await wait_until(lambda: former.fenced == 1, "it learns of its successor")
    successor.take(fired("c"))
    await wait_until(lambda: later.shown == ["c"])
    assert part.state is PartState.ENDED
    assert (read(later), former.shown) == (["a", "c"], ["a"])
    assert not await former.make(1).claim(), "its fence is too low"
    for each in (part, successor):
        await each.end()


async def test_a_record_of_a_later_release_is_left_as_it_is_until_it_can_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamd.cluster.alerts.owned_record.WRITE_RETRY_SECONDS", 0.01)
    (owner,) = await make_owners(1)
    later = b"\x02of a later release"
    await owner.table.put(KEY, later)
    part = owner.make(1)
    claim = asyncio.create_task(part.claim())
    await wait_until(lambda: "later release" in part.problem, "it says why")
    assert owner.entries[KEY].value == later
    await owner.table.put(KEY, encode_record(AlertRecord()))
    assert await claim
    assert part.problem == ""
    await part.end()


async def test_a_keeper_that_finds_the_record_of_a_later_release_ends() -> None:
    (owner,) = await make_owners(1)
    part = owner.make(1)
    assert await part.claim()
    later = b"\x02of a later release"
    await owner.table.put(KEY, later)
    part.take(fired("a"))
    await wait_until(lambda: owner.fenced == 1)
    await part.end()
    assert owner.entries[KEY].value == later


async def test_an_own_write_whose_answer_was_lost_is_no_successor() -> None:
    (owner,) = await make_owners(1)
    part = owner.make(1)
    assert await part.claim()
    owner.log.lose_answers = 1
    part.take(fired("a"))
    await wait_until(lambda: owner.shown == ["a"])
    assert (owner.fenced, read(owner), part.failures) == (0, ["a"], 1)
    await part.end()


async def test_a_claim_goes_on_when_the_log_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.cluster.alerts.owned_record.WRITE_RETRY_SECONDS", 0.01)
    (owner,) = await make_owners(1)
    owner.log.cut()
    part = owner.make(1)
    claim = asyncio.create_task(part.claim())
    await asyncio.sleep(0)
    owner.log.heal()
    assert await claim
    await part.end()


async def test_what_waits_at_the_end_is_stored_and_left_to_the_successor_to_show() -> None:
    owner, later = await make_owners(2)
    part = owner.make(1)
    assert await part.claim()
    part.take(fired("a"))
    await part.end()
    assert owner.shown == []
    successor = later.make(2)
    assert await successor.claim()
    assert list(successor.active) == [("disk_fills", "a")]
    await successor.end()


async def test_marks_stay_for_as_long_as_their_alerts_are_remembered() -> None:
    (owner,) = await make_owners(1)
    part = owner.make(1, max_resolved=1)
    assert await part.claim()
    alerts = [make_alert(server=server) for server in ("a", "b")]
    for alert in alerts:
        part.take([StoredChange(make_change(alert), "print", 0)])
        part.mark(DeliveryMark("webhook", alert.key, alert.starts_at or 0.0, AlertState.FIRING))
    await wait_until(lambda: read_marks(owner) == ["a", "b"])
    for server in ("a", "b"):
        part.take([StoredChange(make_change(make_resolved_alert(server=server)), "print", 0)])
    await wait_until(lambda: read_marks(owner) == ["b"])
    await part.end()
