"""Tests `streamd/runtime/workers/taking.py`: answers as those of one process, whoever owns a server."""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import DrainingError, MalformedError, StreamdError, UnavailableError
from streamd.core.state.column_frames import ColumnFrame, NameList
from streamd.core.state.samples import IngestResult, Sample
from streamd.runtime.service import Service
from streamd.runtime.state.opening import open_state
from streamd.runtime.wiring import build_service
from streamd.runtime.workers.ownership import find_owning_worker
from tests.support.contracts import make_contract
from tests.support.process_rig import LIMITS, NAMES, NOW, WINDOWS, ProcessRig, at, make_singles, run_processes
from tests.support.state_files import rows_of

FEATURES = ("cpu", "mem", "net")


@contextmanager
def one_process(folder: Path) -> Iterator[Service]:
    """A daemon of one process with the same limits."""
    service = build_service(open_state(folder, make_contract(), WINDOWS, 0.0), "model", {}, LIMITS)
    yield service
    service.close()


def make_items(seed: int) -> list[tuple[int, Sample | StreamdError]]:
    """Make a body with all kinds of good and bad samples."""
    pick = random.Random(seed)
    items: list[tuple[int, Sample | StreamdError]] = []
    for index in range(pick.randrange(1, 60)):
        values: dict[str, float | None] = {name: pick.choice([1.0, 2.5, float("nan")]) for name in FEATURES}
        if pick.random() < 0.3:
            values = {pick.choice([*FEATURES, "unknown"]): pick.choice([None, 1e39, float("inf"), 4.0])}
        server = pick.choice([*NAMES, *NAMES, "", "x" * 300, "other"])
        moment = pick.choice([at(pick.randrange(8)), at(pick.randrange(8)), -1.0, float("nan"), 1e15])
        sample = Sample(server, moment, values, pick.choice([None, None, 3]))
        items.append((index, sample if pick.random() < 0.95 else MalformedError("unreadable")))
    return items


def drop_clock(result: IngestResult) -> IngestResult:
    """Return a result without what its texts say about the present second."""
    errors = [{**error, "message": re.sub(r" \d+ s ahead", "", error["message"])} for error in result.errors]
    return IngestResult(result.accepted, result.rejected, errors)


def compare_windows(service: Service, rig: ProcessRig) -> None:
    alone, together = service.state, rig.state
    assert set(alone.directory.slots) == set(together.directory.slots)
    for name in alone.directory.slots:
        assert rows_of(alone, name) == rows_of(together, name), name


def make_limited_caller() -> Caller:
    return Caller("limited", {Scope.INGEST: ("web-1", "web-2*", "new-*")})


@pytest.mark.parametrize("caller", [ANYBODY, make_limited_caller()])
async def test_answers_and_windows_are_those_of_one_process(tmp_path: Path, caller: Caller) -> None:
    async with run_processes(tmp_path / "together") as rig:
        with one_process(tmp_path / "alone") as service:
            for seed in range(25):
                expected = await service.ingest.take_samples(make_items(seed), caller)  # type: ignore[arg-type]
                result = await rig.all[seed % 3].ingest.take_samples(make_items(seed), caller)
                assert drop_clock(result) == drop_clock(expected), seed
            compare_windows(service, rig)


def make_frame(seed: int) -> ColumnFrame:
    pick = random.Random(seed)
    names = NameList(pick.sample(NAMES, pick.randrange(1, len(NAMES))))
    values = np.array([[pick.choice([1.0, 2.0, np.nan]) for _ in FEATURES] for _ in names.names])
    if pick.random() < 0.3:
        values[0, 0] = np.inf
    times: Any = [at(pick.randrange(8)) for _ in names.names] if pick.random() < 0.4 else at(seed)
    return ColumnFrame(servers=names, features=NameList(list(FEATURES)), time=times, values=values)


@pytest.mark.parametrize("caller", [ANYBODY, make_limited_caller()])
async def test_frames_of_columns_are_split_and_answered_as_one(tmp_path: Path, caller: Caller) -> None:
    async with run_processes(tmp_path / "together") as rig:
        with one_process(tmp_path / "alone") as service:
            for seed in range(25):
                expected = await service.ingest.take_frame(make_frame(seed), caller)
                result = await rig.all[seed % 3].ingest.take_frame(make_frame(seed), caller)
                assert sorted_errors(result) == sorted_errors(expected), seed
            compare_windows(service, rig)


def sorted_errors(result: IngestResult) -> tuple[int, int, list[dict[str, Any]]]:
    return result.accepted, result.rejected, sorted(result.errors, key=lambda error: int(error["index"]))


async def test_single_samples_are_taken_by_their_owners(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        for step in range(5):
            errors = await rig.all[step % 3].ingest.singles.take(make_singles(rig, NAMES, step))
            assert errors == [None] * len(NAMES)
        late = await rig.all[0].ingest.singles.take(make_singles(rig, ["web-3", "", "web-4"], -3))
        assert [getattr(error, "code", None) for error in late] == ["too_old", "invalid_server", "too_old"]
        for name in NAMES:
            assert len(rows_of(rig.state, name)) == 5
        owners = {find_owning_worker(name, 3) for name in NAMES}
        assert len(owners) == 3, "the test has servers of each worker"
        assert sum(worker.state.windows.closed_rows for worker in rig.all) == 5 * len(NAMES)
        assert rig.state.windows.closed_rows == 0, "the engine process writes none"


async def test_due_servers_reach_the_engine_process(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        for step in range(3):
            await rig.all[0].ingest.singles.take(make_singles(rig, NAMES, step))
        await rig.wait_until(lambda: len(rig.service.scheduler.due) == len(NAMES))
        assert rig.service.scheduler.row_counts()["due"] == len(NAMES)


async def test_a_lost_worker_fails_what_it_owes_and_a_new_one_goes_on(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await rig.all[0].ingest.singles.take(make_singles(rig, NAMES, 0))
        rig.stop_worker(1)
        with pytest.raises(UnavailableError):
            await rig.all[0].ingest.singles.take(make_singles(rig, NAMES, 1))
        own = [name for name in NAMES if find_owning_worker(name, 3) == 0]
        assert await rig.all[0].ingest.singles.take(make_singles(rig, own, 1)) == [None] * len(own)
        await rig.start_worker(1)
        await rig.wait_until(lambda: 1 not in rig.all[0].gate.away)
        assert await rig.all[0].ingest.singles.take(make_singles(rig, NAMES, 1)) == [None] * len(NAMES)
        for name in NAMES:
            assert len(rows_of(rig.state, name)) == 2


async def test_without_the_engine_process_known_servers_go_on_and_new_ones_wait(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        for step in range(2):
            await rig.all[0].ingest.singles.take(make_singles(rig, NAMES[:6], step))
        rig.stop_engine()
        assert await rig.all[1].ingest.singles.take(make_singles(rig, NAMES[:6], 2)) == [None] * 6
        with pytest.raises(UnavailableError):
            await rig.all[1].ingest.singles.take(make_singles(rig, ["new"], 2))
        rig.start_engine(has_workers=True)
        assert len(rig.service.scheduler.due) == 6, "it finds what became due meanwhile"
        await rig.wait_until(lambda: all(worker.gate.is_engine_up for worker in rig.all))
        assert await rig.all[1].ingest.singles.take(make_singles(rig, ["new"], 2)) == [None]


async def test_a_draining_worker_takes_no_more_from_callers(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        rig.all[0].ingest.is_draining = True
        with pytest.raises(DrainingError):
            await rig.all[0].ingest.take_samples([])
        assert await rig.all[1].ingest.singles.take(make_singles(rig, NAMES, 0)) == [None] * len(NAMES)


async def test_a_limited_caller_gets_its_errors_beside_what_it_may_send(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        caller = make_limited_caller()
        errors = await rig.all[0].ingest.singles.take(make_singles(rig, NAMES, 0), caller)
        accepted = [name for name, error in zip(NAMES, errors, strict=True) if error is None]
        assert accepted == ["web-1", "web-2"]
        assert {error.code for error in errors if error is not None} == {"forbidden"}


async def test_later_samples_of_a_body_win_whoever_waits_for_a_slot_in_between(tmp_path: Path) -> None:
    async with run_processes(tmp_path) as rig:
        await rig.all[0].ingest.singles.take(make_singles(rig, NAMES[:6], 0))
        items: list[tuple[int, Sample | StreamdError]] = []
        for number in range(60):  # a known server, again and again, between new ones
            items.append((len(items), Sample("web-1", at(1), dict.fromkeys(FEATURES, float(number)))))
            items.append((len(items), Sample(f"new-{number % 5}", at(1), dict.fromkeys(FEATURES, 1.0))))
        for worker in rig.all:
            result = await worker.ingest.take_samples(items)
            assert result.accepted == len(items)
            assert rows_of(rig.state, "web-1")[NOW + 1] == dict.fromkeys(FEATURES, 59.0)
