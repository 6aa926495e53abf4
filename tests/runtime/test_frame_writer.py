"""Tests `streamd/runtime/frame_writer.py`: a frame is taken as its rows would be taken one after the other."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.access.usage import UsageLimits
from streamd.core.errors import DrainingError, StorageError
from streamd.core.state import row_frames
from streamd.core.state.column_frames import ColumnFrame, NameList
from streamd.core.state.samples import IngestResult, Sample
from streamd.runtime import frame_writer, ingest
from tests.support.recording_ingest import START, STEP, RecordingIngest, record_ingest, sample
from tests.support.state_files import rows_of

SERVERS = [f"s{number}" for number in range(6)]
NAMES = st.one_of(
    st.just(SERVERS),
    st.just(SERVERS),
    st.just(SERVERS[::-1]),
    st.just(SERVERS[2:5]),
    st.just(["s0", "s1", "s2", "s1"]),
    st.just(["new-1", "new-2", *SERVERS]),
    st.lists(st.sampled_from([*SERVERS, "new-1", "new-2", "new-3", "", "x" * 257, "\ud800"]), min_size=1, max_size=7),
)
FEATURES = st.sampled_from(
    [["cpu", "mem", "net"]] * 6 + [["net", "cpu", "mem"], ["cpu", "fan", "net", "mem"], ["cpu", "mem"], ["fan"], []]
)
CELLS = st.one_of(*[st.integers(-9, 9).map(float)] * 20, st.sampled_from([np.nan, np.nan, np.inf, -np.inf, 1e39]))
DTYPES = st.sampled_from(["<f4"] * 4 + ["<f8", "<f2", "<i8"])
CALLERS: dict[str, Callable[[], Caller]] = {
    "anybody": lambda: ANYBODY,
    "some": lambda: Caller("some", {Scope.INGEST: ["s[0-3]", "new-1"]}),
    "few": lambda: Caller("few", {Scope.INGEST: ["*"]}, UsageLimits(max_servers=4)),
    "admin": lambda: Caller("admin", {Scope.INGEST: ["*"], Scope.ADMIN: ["*"]}),
    "revoked": lambda: Caller("revoked", {Scope.INGEST: ["*"]}),
}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_writer, "MIN_ROWS", 1)
    monkeypatch.setattr(frame_writer, "FRAME_SLICE", 5)
    monkeypatch.setattr(ingest, "FRAME_SLICE", 5)


@st.composite
def frames(draw: st.DrawFn) -> tuple[str, Any]:
    """Draw a frame: names, features, values, steps relative to the newest, and a caller."""
    names, features, dtype = draw(NAMES), draw(FEATURES), draw(DTYPES)
    count = len(names)
    cells = draw(st.lists(CELLS, min_size=count * len(features), max_size=count * len(features)))
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array(cells, np.float64).reshape(count, len(features)).astype(dtype)
    steps = st.sampled_from([1] * 16 + [0, 2, -1, -20, 9_999_999, "nan", "negative"])
    time = draw(st.one_of(steps, steps, st.lists(steps, min_size=count, max_size=count)))
    return "frame", (names, features, values, time, draw(st.sampled_from([*["anybody"] * 4, *CALLERS])))


EVENTS = st.one_of(
    frames(),
    frames(),
    frames(),
    st.tuples(
        st.just("sample"), st.tuples(st.sampled_from(SERVERS), st.sampled_from([1, 1, 0, -2]), st.sampled_from([1, 3]))
    ),
    st.tuples(st.just("forget"), st.sampled_from(SERVERS)),
    st.tuples(st.just("rewind"), st.tuples(st.sampled_from(SERVERS), st.sampled_from([-1, -2, -99]))),
    st.tuples(st.just("shortage"), st.booleans()),
    st.tuples(st.just("grace"), st.none()),
)


class Twin:
    """An ingest that takes frames as frames, or row by row."""

    def __init__(self, at: RecordingIngest, *, by_rows: bool) -> None:
        self.at = at
        self._by_rows = by_rows
        self._lists: dict[tuple[str, ...], NameList] = {}
        self.callers = {name: make() for name, make in CALLERS.items()}
        self.callers["revoked"].revoke()
        at.admission.name_owner = self

    @property
    def newest(self) -> int:
        """The newest step of the second server, from the first step on; 0 if it has none."""
        slot = self.at.state.directory.slots.get(SERVERS[1])
        return max(self.at.state.windows.get_newest_step(slot) - STEP, 0) if slot is not None else 0

    def forget_server(self, name: str) -> None:
        for caller in self.callers.values():
            caller.usage.forget_server(name)

    def find_list(self, names: list[str]) -> NameList:
        return self._lists.setdefault(tuple(names), NameList(names))

    async def feed(self, kind: str, given: Any) -> Any:
        if kind == "frame":
            return await self._take(*given)
        if kind == "sample":
            server, step, width = given
            values: dict[str, float | None] = dict(zip(("cpu", "mem", "net"), (1.0, 2.0, 3.0)[:width], strict=False))
            return describe(await self.at.take(sample(server, self.newest + step, values)))
        if kind == "forget":
            slot = self.at.state.directory.slots.get(given)
            if slot is not None:
                self.at.state.forget(slot)
                self.forget_server(given)
        elif kind == "rewind":
            server, step = given
            slot = self.at.state.directory.slots.get(server)
            if slot is not None:
                return self.at.state.rewind(slot, STEP + self.newest + step)
        elif kind == "shortage":
            self.at.state.refuse_writes(StorageError("full") if given else None)
        else:
            return self.at.state.windows.close_overdue_rows(1e12)
        return None

    async def _take(self, names: list[str], features: list[str], values: Any, time: Any, caller: str) -> Any:
        frame = ColumnFrame(
            servers=self.find_list(names),
            features=self.find_list(features),
            time=[self.find_time(each) for each in time] if isinstance(time, list) else self.find_time(time),
            values=values,
        )
        if self._by_rows:
            result = await self.at.ingest.take_samples(frame.make_samples(), self.callers[caller])
        else:
            result = await self.at.ingest.take_frame(frame, self.callers[caller])
        return describe(result)

    def find_time(self, step: int | str) -> float:
        if isinstance(step, str):
            return {"nan": float("nan"), "negative": -5.0}[step]
        return START + 300.0 * (self.newest + step) + 7

    def snapshot(self) -> dict[str, Any]:
        """Return everything that the rows may have changed."""
        state, ingest = self.at.state, self.at.ingest
        return {
            "counts": [ingest.accepted, ingest.rejected, ingest.ignored_features, ingest.load.bodies],
            "rows": [state.windows.closed_rows, state.windows.warming_rows],
            "is_any_open": state.windows.get_next_deadline() is not None,
            "slots": state.directory.slots,
            "due": sorted(self.at.due, key=str),
            "forgotten": self.at.forgotten,
            "usage": [caller.usage.servers for caller in self.callers.values()],
            **{name: array.tobytes() for name, array in state.windows.arrays.items()},
            **{name: array.tobytes() for name, array in state.windows.volatile.items()},
            "generations": state.directory.generations.tolist(),
        }


def describe(result: IngestResult) -> Any:
    return result.accepted, result.rejected, result.errors


WALL = START + 300.0 * 10_000
"""The clock of both stands still: servers are as silent in one as in the other."""


@contextmanager
def twins(folder: Path) -> Iterator[tuple[Twin, Twin]]:
    with record_ingest(folder / "a", capacity=7) as first, record_ingest(folder / "b", capacity=7) as second:
        for at in (first, second):
            at.ingest._wall = lambda: WALL
        yield Twin(first, by_rows=False), Twin(second, by_rows=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=14), st.data())
def test_a_frame_is_taken_as_its_rows_would_be(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, Any]], data: st.DataObject
) -> None:
    with twins(tmp_path_factory.mktemp("twins")) as (frames, rows):
        usual = ["cpu", "mem", "net"], np.ones((6, 3), np.float32), 1, "anybody"
        for kind, what in [("frame", (SERVERS, *usual)), ("frame", (SERVERS, *usual)), *script]:
            assert asyncio.run(frames.feed(kind, what)) == asyncio.run(rows.feed(kind, what))
            assert frames.snapshot() == rows.snapshot()


# ---------------------------------------------------------------- single cases
def make_frame(servers: list[str] | NameList, step: int = 0, **changes: Any) -> ColumnFrame:
    names = servers if isinstance(servers, NameList) else NameList(servers)
    given: dict[str, Any] = {
        "servers": names,
        "features": NameList(["cpu", "mem", "net"]),
        "time": START + 300.0 * step,
        "values": np.full((len(names), 3), step + 1.0, np.float32),
    }
    return ColumnFrame(**{**given, **changes})


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that were written together."""
    sizes: list[int] = []
    write = row_frames.write_next_rows

    def count(*given: Any) -> Any:
        sizes.append(len(given[1]))
        return write(*given)

    monkeypatch.setattr(frame_writer, "write_next_rows", count)
    return sizes


async def test_the_usual_rows_are_written_together(tmp_path: Path, written: list[int]) -> None:
    servers = NameList(SERVERS[:4])
    with record_ingest(tmp_path) as at:
        for step in range(3):
            assert (await at.ingest.take_frame(make_frame(servers, step))).accepted == 4
        assert written == [4, 4], "the first time, the servers were new"
        assert rows_of(at.state, "s2")[STEP + 2] == {"cpu": 3.0, "mem": 3.0, "net": 3.0}
        assert at.due[-4:] == [(name, 1) for name in SERVERS[:4]]


async def test_the_rows_beside_an_unusual_one_are_written_together(tmp_path: Path, written: list[int]) -> None:
    servers, values = NameList(SERVERS[:4]), np.ones((4, 3), np.float32)
    values[1, 1], values[2, 0] = np.nan, np.inf
    with record_ingest(tmp_path) as at:
        await at.ingest.take_frame(make_frame(servers))
        result = await at.ingest.take_frame(make_frame(servers, 1, values=values))
        assert (result.accepted, [error["index"] for error in result.errors]) == (3, [2])
        assert written == [2]


async def test_a_server_that_took_a_slot_over_is_noticed(tmp_path: Path, written: list[int]) -> None:
    servers = NameList(SERVERS[:4])
    with record_ingest(tmp_path) as at:
        for step in range(2):
            await at.ingest.take_frame(make_frame(servers, step))
        at.state.forget(at.state.directory.slots["s1"])
        await at.take(sample("other", 0), sample("other", 1))
        result = await at.ingest.take_frame(make_frame(servers, 2))
        assert [error["code"] for error in result.errors] == ["no_capacity"]
        assert set(rows_of(at.state, "other")) == {STEP, STEP + 1}


async def test_a_server_that_a_newcomer_of_the_same_frame_evicts_is_taken_after_it(tmp_path: Path) -> None:
    """As with single rows: first the newcomer gets the slot, and then the evicted server gets another one."""
    admin = Caller("admin", {Scope.INGEST: ["*"], Scope.ADMIN: ["*"]})
    with record_ingest(tmp_path) as at:
        at.ingest._wall = lambda: START + 300.0
        for step in range(2):
            await at.ingest.take_frame(make_frame(SERVERS[:4], step))
        at.state.directory.touch(at.state.directory.slots["s3"], START)
        result = await at.ingest.take_frame(make_frame(["new", "s3"], 2), admin)
        assert (result.accepted, at.forgotten) == (2, [3, 0])
        assert set(at.state.directory.slots) == {"s1", "s2", "s3", "new"}


async def test_a_server_that_is_there_twice_gets_its_rows_in_their_order(tmp_path: Path, written: list[int]) -> None:
    with record_ingest(tmp_path) as at:
        await at.ingest.take_frame(make_frame(SERVERS[:3]))
        values = np.arange(9, dtype=np.float32).reshape(3, 3)
        assert (await at.ingest.take_frame(make_frame(["s0", "s1", "s0"], 1, values=values))).accepted == 3
        assert rows_of(at.state, "s0")[STEP + 1] == {"cpu": 6.0, "mem": 7.0, "net": 8.0}
        assert not written


async def test_a_revoked_caller_writes_nothing(tmp_path: Path) -> None:
    servers, caller = NameList(SERVERS[:4]), Caller("one", {Scope.INGEST: ["s*"]})
    with record_ingest(tmp_path) as at:
        for step in range(3):
            assert (await at.ingest.take_frame(make_frame(servers, step), caller)).accepted == 4
        other = Caller("other", {Scope.INGEST: ["s[01]"]})
        assert (await at.ingest.take_frame(make_frame(servers, 3), other)).accepted == 2
        caller.revoke()
        result = await at.ingest.take_frame(make_frame(servers, 4), caller)
        assert [error["code"] for error in result.errors] == ["unauthorized"] * 4


async def test_several_steps_of_a_frame_are_written_in_their_order(tmp_path: Path, written: list[int]) -> None:
    servers = SERVERS[:4]
    with record_ingest(tmp_path) as at:
        await at.ingest.take_frame(make_frame(servers))
        times = [START + 300.0 * step for step in (1, 2, 3) for _ in servers]
        values = np.repeat(np.arange(3.0), 4)[:, None] * np.ones(3)
        frame = make_frame(servers * 3, time=times, values=values)
        assert (await at.ingest.take_frame(frame)).accepted == 12
        assert [values["cpu"] for _, values in sorted(rows_of(at.state, "s3").items())] == [1.0, 0.0, 1.0, 2.0]
        assert sum(written) == 12


async def count_turns(turns: list[int]) -> None:
    while True:
        await asyncio.sleep(0)
        turns.append(len(turns))


async def test_a_long_frame_gives_way_to_the_event_loop(tmp_path: Path) -> None:
    names, turns = [f"n{number}" for number in range(40)], list[int]()
    with record_ingest(tmp_path, capacity=40) as at:
        await at.ingest.take_frame(make_frame(names))
        counting = asyncio.create_task(count_turns(turns))
        await at.ingest.take_frame(make_frame(names, 1))
        counting.cancel()
        assert len(turns) >= 3, "after each 5 rows"


async def test_a_frame_that_is_cut_into_many_parts_gives_way_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part takes as long as hundreds of rows that are written together, and a row that is taken alone as several."""
    monkeypatch.setattr(frame_writer, "FRAME_SLICE", 4_096)
    monkeypatch.setattr(ingest, "FRAME_SLICE", 4_096)
    names, turns = [f"n{number}" for number in range(128)], list[int]()
    with record_ingest(tmp_path, capacity=128) as at:
        await at.ingest.take_frame(make_frame(names))
        counting = asyncio.create_task(count_turns(turns))
        times = [START + 300.0 * (1 + row % 2) for row in range(128)]
        assert (await at.ingest.take_frame(make_frame(names, time=times))).accepted == 128
        counting.cancel()
        assert len(turns) >= 3


async def test_rows_are_charged_to_their_token(tmp_path: Path) -> None:
    caller = Caller("one", {Scope.INGEST: ["s[0-2]"]}, UsageLimits(rows_per_second=1.0))
    with record_ingest(tmp_path) as at:
        await at.ingest.take_frame(make_frame(SERVERS[:4]), caller)
        await at.ingest.take_frame(make_frame(SERVERS[:4], 1), caller)
        assert caller.usage.count_wait_seconds(0.0) == 0.0
        await at.ingest.take_frame(make_frame(SERVERS[:4], 2), caller)
        assert caller.usage.count_wait_seconds(0.0) == pytest.approx(3.0, abs=0.1)


async def test_no_frame_is_taken_while_it_drains(tmp_path: Path) -> None:
    with record_ingest(tmp_path) as at:
        at.ingest.is_draining = True
        with pytest.raises(DrainingError):
            await at.ingest.take_frame(make_frame(SERVERS[:4]))


async def test_rows_of_which_the_mean_counts_are_taken_as_points(tmp_path: Path) -> None:
    taken: list[Any] = []

    class Points:
        async def take_samples(self, samples: Any, caller: Caller) -> list[Any]:
            taken.extend(samples)
            return []

    with record_ingest(tmp_path) as at:
        at.ingest.points = Points()
        assert (await at.ingest.take_frame(make_frame(SERVERS[:4]))).accepted == 4
        assert [(index, each.server) for index, each in taken if isinstance(each, Sample)] == list(
            enumerate(SERVERS[:4])
        )


async def test_a_server_that_lies_ahead_is_contradicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = NameList(SERVERS[:4])
    contradicted: list[int] = []
    with record_ingest(tmp_path) as at:
        monkeypatch.setattr(at, "contradict", contradicted.append)
        for step in range(2):
            await at.ingest.take_frame(make_frame(servers, step))
        at.ingest._wall = lambda: START + 600.0
        slot = at.state.directory.slots["s2"]
        at.state.ahead.contradicted_since[slot] = None
        assert (await at.ingest.take_frame(make_frame(servers, 2))).accepted == 4
        assert contradicted == [slot]


async def test_parts_that_overlap_do_not_make_a_list_large(tmp_path: Path, written: list[int]) -> None:
    """A sender that cuts the same list otherwise in each frame must not let each part be remembered."""
    servers = NameList(SERVERS[:4])
    with record_ingest(tmp_path) as at:
        for step in range(2):
            await at.ingest.take_frame(make_frame(servers, step))
        for begin in range(4):
            for end in range(begin + 1, 5):
                times = [START + 300.0 * (3 if begin <= row < end else 2) for row in range(4)]
                await at.ingest.take_frame(make_frame(servers, time=times))
                assert sum(end - begin for begin, end in servers.known) <= frame_writer._MAX_SHARE * len(servers)
    assert written
