"""Tests `streamd/runtime/alerts/silence_requests.py`: what is answered, and what is on the disk by then."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamd.core.alerts.silences import Silence
from streamd.core.errors import StorageError, StreamdError, TooBusyError, UnavailableError, UnknownSilenceError
from streamd.runtime.alerts.silence_requests import SilenceRequest
from tests.support.silence_rig import HIGH, SilenceRig, make_silence
from tests.support.state_files import opened


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SilenceRig]:
    with opened(tmp_path) as state:
        yield SilenceRig(state)


def test_a_silence_is_on_the_disk_and_published_when_it_is_answered(rig: SilenceRig) -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def note(answer: Silence | StreamdError) -> None:
        assert rig.thread.store is not None
        stored = [each.id for each in rig.thread.store.read_silences()]
        seen.append((stored, [each.id for each in rig.silences]))

    for wanted in (make_silence(ends_at=rig.now + 60), "s"):
        rig.thread.request_silence(SilenceRequest(wanted, note))
        rig.thread.do_requested()
    assert seen == [(["s"], ["s"]), ([], [])]


def test_a_silence_that_is_not_known_cannot_be_ended(rig: SilenceRig) -> None:
    answer = rig.end("nothing")
    assert isinstance(answer, UnknownSilenceError)
    assert "'nothing'" in str(answer)


def test_one_silence_too_many_is_refused_and_not_stored(rig: SilenceRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.core.alerts.silences.MAX_SILENCES", 1)
    rig.begin(60.0, "a")
    assert isinstance(rig.begin(60.0, "b"), TooBusyError)
    assert [each.id for each in rig.kill().silences] == ["a"]


def test_what_the_disk_refuses_changes_nothing(rig: SilenceRig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise StorageError("the disk is full")

    rig.begin(60.0, "a")
    monkeypatch.setattr(rig.thread.store, "add_silence", refuse)
    monkeypatch.setattr(rig.thread.store, "remove_silences", refuse)
    assert isinstance(rig.begin(60.0, "b"), StorageError)
    assert isinstance(rig.end("a"), StorageError)
    rig.forecast("db-1", HIGH)
    assert (rig.find_ends(), rig.take_notified()) == ({"db-1": rig.now + 60.0}, [])
    rig.wait(60.0)
    assert rig.take_notified() == [("firing", "db-1")], "the time of a silence is over whatever the disk does"


def test_a_defect_is_answered_too(rig: SilenceRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.thread.store, "add_silence", None)
    answer = rig.begin(60.0)
    assert isinstance(answer, UnavailableError)
    assert "was not changed" in str(answer)


def test_without_a_store_nothing_can_be_silenced(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        (tmp_path / "alerts.sqlite").mkdir()
        assert isinstance(SilenceRig(state).begin(60.0), StorageError)


def test_a_thread_that_ends_answers_what_waits_and_what_comes_later(rig: SilenceRig) -> None:
    answers: list[Silence | StreamdError] = []
    rig.thread.request_silence(SilenceRequest("s", answers.append))
    rig.thread.close()
    rig.thread.request_silence(SilenceRequest("s", answers.append))
    assert [str(each) for each in answers] == ["the daemon is stopping"] * 2
