"""Tests `streamd/repository/promotion.py`.

Promotions and rollbacks: what the record says then, who is refused, and one at a time.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import RepositoryError
from streamd.repository.collection import collect_garbage
from streamd.repository.files import lock_repository
from streamd.repository.promotion import Promoter
from streamd.repository.record import (
    MAX_EARLIER,
    MAX_HISTORY,
    MAX_TEXT_CHARACTERS,
    PromotionChange,
    PromotionRecord,
    read_promotion_record,
    write_promotion_record,
)
from streamd.repository.versions import EngineRepository
from tests.support.made_versions import add_plan, judge, make, tell

A, B, C, D = (f"{letter}_2025010{day}_000000" for day, letter in enumerate("abcd", 1))


@pytest.fixture
def promoter(tmp_path: Path) -> Promoter:
    for name in (A, B, C, D):
        make(tmp_path, name, default=name == B)
    return Promoter(EngineRepository(tmp_path))


def serving(promoter: Promoter) -> str:
    return promoter.repository.choose().name


# ---------------------------------------------------------------- the undo stack
def test_a_promoted_version_serves_and_is_recorded(promoter: Promoter) -> None:
    record = promoter.promote(A, "ann@host", "better on the weekend", 1700000000.5)
    assert serving(promoter) == A
    assert record == read_promotion_record(promoter.repository.root)
    assert record.history == (
        PromotionChange(
            kind="promote", version=A, from_=None, when=1700000000.5, who="ann@host", why="better on the weekend"
        ),
    )
    said = json.loads((promoter.repository.root / "promoted.json").read_text())
    assert (said["current"], said["previous"], said["earlier"]) == (A, None, [])
    assert said["history"][0] == {
        "kind": "promote",
        "version": A,
        "from": None,
        "when": 1700000000.5,
        "who": "ann@host",
        "why": "better on the weekend",
        "passed_over": [],
    }


def test_rolling_back_goes_further_back_each_time_and_never_forth(promoter: Promoter) -> None:
    for when, name in enumerate((A, C, D)):
        promoter.promote(name, "ann", "", float(when))
    went = []
    for when in range(3):
        promoter.rollback("bob", "worse", 10.0 + when)
        went.append(serving(promoter))
    assert went == [C, A, B], "B is the default: nothing is promoted any more"
    with pytest.raises(RepositoryError, match="nothing is promoted: there is nothing to roll back"):
        promoter.rollback("bob", "", 20.0)
    history = read_promotion_record(promoter.repository.root).history
    assert [(each.kind, each.from_, each.version) for each in history] == [
        ("promote", None, A),
        ("promote", A, C),
        ("promote", C, D),
        ("rollback", D, C),
        ("rollback", C, A),
        ("rollback", A, None),
    ]


def test_a_promotion_after_a_rollback_goes_on_from_there(promoter: Promoter) -> None:
    for name in (A, C):
        promoter.promote(name, "ann", "", 0.0)
    promoter.rollback("ann", "", 1.0)
    promoter.promote(D, "ann", "", 2.0)
    assert promoter.rollback("ann", "", 3.0).current == A


def test_what_is_promoted_already_changes_nothing(promoter: Promoter) -> None:
    promoter.promote(A, "ann", "", 0.0)
    before = (promoter.repository.root / "promoted.json").stat()
    assert promoter.promote(A, "bob", "again", 1.0).history[-1].who == "ann"
    assert (promoter.repository.root / "promoted.json").stat() == before


def test_a_rollback_passes_over_what_cannot_serve(promoter: Promoter) -> None:
    root = promoter.repository.root
    for name in (A, B, C, D):
        promoter.promote(name, "ann", "", 0.0)
    (root / C / "model.onnx").unlink()
    judge(root / B, "fp16", False, "coverage")
    record = promoter.rollback("ann", "", 1.0)
    assert (record.current, record.history[-1].passed_over) == (A, (C, B))


def test_a_rollback_to_nothing_that_can_serve_is_refused(promoter: Promoter) -> None:
    root = promoter.repository.root
    promoter.promote(A, "ann", "", 0.0)
    for name in (A, B, C, D):
        (root / name / "model.onnx").unlink()
    with pytest.raises(RepositoryError, match="no engine version to serve"):
        promoter.rollback("ann", "", 1.0)
    assert read_promotion_record(root).current == A


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("promote"), st.sampled_from("abcd")),
        st.tuples(st.just("rollback"), st.frozensets(st.sampled_from("abcd"))),
    ),
    max_size=40,
)


@given(STEPS)
def test_the_record_is_a_stack(steps: list[tuple[str, Any]]) -> None:
    record, stack, changes = PromotionRecord(), list[str](), 0
    for when, (kind, operand) in enumerate(steps):
        if kind == "promote":
            record = record.with_promotion(operand, when=when, who="w", why="")
            if stack[-1:] != [operand]:
                stack.append(operand)
                changes += 1
        elif not stack:
            with pytest.raises(ValueError, match="nothing is promoted"):
                record.with_rollback(operand.__contains__, when=when, who="w", why="")
        else:
            record = record.with_rollback(operand.__contains__, when=when, who="w", why="")
            stack.pop()
            while stack and stack[-1] not in operand:
                stack.pop()
            changes += 1
        assert [*record.serving_names] == stack[::-1]
        assert (record.current, record.previous) == (([None, None, *stack])[-1], ([None, None, *stack])[-2])
        assert len(record.history) == changes


def test_the_record_is_bounded_and_whatever_is_said_can_be_written(tmp_path: Path) -> None:
    record = PromotionRecord()
    for when in range(MAX_HISTORY + 50):
        record = record.with_promotion(f"v{when}", when=when, who="x" * 10_000, why="\udcff" * 10_000)
    assert (len(record.earlier), len(record.history)) == (MAX_EARLIER, MAX_HISTORY)
    assert (record.previous, record.history[-1].version) == (f"v{when - 1}", f"v{when}")
    assert {len(record.history[-1].who), len(record.history[-1].why)} == {MAX_TEXT_CHARACTERS}
    write_promotion_record(tmp_path, record)
    assert read_promotion_record(tmp_path) == record


# ---------------------------------------------------------------- refusals
def refused(promoter: Promoter, version: str) -> str:
    before = read_promotion_record(promoter.repository.root)
    with pytest.raises(RepositoryError) as caught:
        promoter.promote(version, "ann", "", 9.0)
    assert read_promotion_record(promoter.repository.root) == before
    return str(caught.value)


@pytest.mark.parametrize("name", ["nope_20250101_000000", "../engines", ".", "", "x" * 300])
def test_an_unknown_version_is_not_promoted(promoter: Promoter, name: str) -> None:
    assert "there are" in refused(promoter, name)


def test_an_unsound_version_is_not_promoted(promoter: Promoter) -> None:
    (promoter.repository.root / A / "model.onnx").write_bytes(b"")
    assert "not an ONNX model" in refused(promoter, A)


@pytest.mark.parametrize(
    ("verdicts", "promotable"),
    [
        ({}, True),
        ({"fp16": None}, True),
        ({"fp16": True}, True),
        ({"fp16": False}, False),
        ({"fp16": False, "int8": False}, False),
        ({"fp16": False, "int8": None}, False),
        ({"fp16": True, "int8": False}, True),
        ({"fp32": False, "fp16": True}, False),
        ({"fp32": True, "fp16": False}, True),
    ],
)
def test_the_gate_decides(promoter: Promoter, verdicts: dict[str, bool | None], promotable: bool) -> None:
    path = promoter.repository.root / A
    for precision, verdict in verdicts.items():
        add_plan(path, precision)
        judge(path, precision, verdict, f"{precision} is off by 7 %")
    if promotable:
        assert promoter.promote(A, "ann", "", 0.0).current == A
    else:
        said = refused(promoter, A)
        assert "accuracy gate" in said
        assert "fp32 is off by 7 %" in said or "fp16 is off by 7 %" in said
        assert f"streamd engine build --version {path}" in said


@pytest.mark.parametrize("validation", [5, [], {"fp16": 1}, {"fp16": {"promotable": "yes"}}])
def test_a_verdict_that_cannot_be_read_is_no_yes(promoter: Promoter, validation: Any) -> None:
    tell(promoter.repository.root / A, validation=validation)
    assert "validation" in refused(promoter, A)


def test_one_at_a_time(promoter: Promoter) -> None:
    promoter.promote(A, "ann", "", 0.0)
    with lock_repository(promoter.repository.root):
        assert "another promote, rollback or gc is in progress" in refused(promoter, B)
        with pytest.raises(RepositoryError, match="in progress"):
            promoter.rollback("ann", "", 1.0)
        with pytest.raises(RepositoryError, match="in progress"):
            collect_garbage(promoter.repository, 1, now=1.0)
        assert serving(promoter) == A, "who reads waits for nobody"
    assert promoter.promote(B, "ann", "", 1.0).current == B


def test_a_folder_that_cannot_be_changed_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="nowhere: no such folder"):
        Promoter(EngineRepository(tmp_path / "nowhere")).promote(A, "ann", "", 0.0)
    make(tmp_path, A)
    (tmp_path / ".promoted.lock").mkdir()
    with pytest.raises(RepositoryError, match="cannot be changed"):
        Promoter(EngineRepository(tmp_path)).promote(A, "ann", "", 0.0)


def test_a_record_that_cannot_be_read_is_not_written_over(promoter: Promoter) -> None:
    place = promoter.repository.root / "promoted.json"
    place.write_text("{")
    with pytest.raises(RepositoryError, match="restore it, or remove it"):
        promoter.promote(A, "ann", "", 0.0)
    with pytest.raises(RepositoryError, match="restore it, or remove it"):
        promoter.rollback("ann", "", 0.0)
    assert place.read_text() == "{"
