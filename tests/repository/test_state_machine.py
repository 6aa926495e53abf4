"""Tests `streamd/repository`.

Publish, break, mend, remove, promote, roll back and collect in any order, on disk, against a naive model.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamd.core.errors import RepositoryError
from streamd.repository.collection import collect_garbage
from streamd.repository.promotion import Promoter
from streamd.repository.record import read_promotion_record
from streamd.repository.versions import EngineRepository
from tests.support.made_versions import GRAPH, make

NAMES = [f"v_2025010{day}_000000" for day in range(1, 8)]
names = st.sampled_from(NAMES)


class RepositoryMachine(RuleBasedStateMachine):
    """The model: who is there and sound, who is marked as the default, and a stack of promotions."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="engines-"))
        self.repository = EngineRepository(self.root)
        self.sound: dict[str, bool] = {}
        self.defaults: set[str] = set()
        self.stack: list[str] = []
        self.now = 0.0

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    # ------------------------------------------------------------ what happens on disk
    @rule(name=names, default=st.sampled_from([False, False, True]))
    def publish(self, name: str, default: bool) -> None:
        if name not in self.sound:
            make(self.root, name, default=default)
            self.sound[name] = True
            self.defaults |= {name} if default else set()

    @rule(name=names)
    def damage(self, name: str) -> None:
        if name in self.sound:
            (self.root / name / "model.onnx").write_bytes(GRAPH[:40])
            self.sound[name] = False

    @rule(name=names)
    def mend(self, name: str) -> None:
        if name in self.sound:
            (self.root / name / "model.onnx").write_bytes(GRAPH)
            self.sound[name] = True

    @rule(name=names)
    def remove(self, name: str) -> None:
        if name in self.sound:
            shutil.rmtree(self.root / name)
            self._forget(name)

    # ------------------------------------------------------------ what people do
    @rule(name=names)
    def promote(self, name: str) -> None:
        promoter = Promoter(self.repository)
        self.now += 1
        if not self.sound.get(name):
            with pytest.raises(RepositoryError):
                promoter.promote(name, "ann", "", self.now)
            return
        promoter.promote(name, "ann", "", self.now)
        if self.stack[-1:] != [name]:
            self.stack.append(name)

    @rule()
    def rollback(self) -> None:
        self.now += 1
        rest = self.stack[:-1]
        while rest and not self.sound.get(rest[-1]):
            rest.pop()
        if not self.stack or not (rest or self._unpromoted()):
            with pytest.raises(RepositoryError):
                Promoter(self.repository).rollback("ann", "", self.now)
            return
        Promoter(self.repository).rollback("ann", "", self.now)
        self.stack = rest

    @rule(keep=st.integers(1, 4), dry_run=st.booleans(), in_use=st.sets(names, max_size=2))
    def collect(self, keep: int, dry_run: bool, in_use: set[str]) -> None:
        in_use &= set(self.sound)
        sound = sorted(name for name, is_sound in self.sound.items() if is_sound)
        stays = {*sound[-keep:], *self.defaults, *in_use, *self.stack[-2:], *self._unpromoted()[:1]}
        stays |= {*[name for name in reversed(self.stack) if self.sound.get(name)][:1]}
        stays |= {*[name for name in reversed(self.stack[:-1]) if self.sound.get(name)][:1]}
        goes = {*sound} - stays
        serves, undo = self._serving(), self._unpromoted()[:1]
        done = collect_garbage(self.repository, keep, now=1e12, in_use=in_use, dry_run=dry_run)
        assert {*done.removed} == goes
        assert {*done.kept} == {*sound} - goes
        assert {*done.unjudged} == {*self.sound} - {*sound}
        if not dry_run:
            for name in goes:
                self._forget(name)
        assert (self._serving(), self._unpromoted()[:1]) == (serves, undo)

    # ------------------------------------------------------------ what must hold
    @invariant()
    def the_right_one_serves(self) -> None:
        expected = self._serving()
        if expected is None:
            with pytest.raises(RepositoryError, match="no engine version to serve"):
                self.repository.choose()
        else:
            assert self.repository.choose().name == expected

    @invariant()
    def the_record_is_the_stack(self) -> None:
        assert [*read_promotion_record(self.root).serving_names] == self.stack[::-1]

    @invariant()
    def nothing_is_left_lying_about(self) -> None:
        found = {path.name for path in self.root.iterdir()} - {"promoted.json", ".promoted.lock"}
        assert found == {*self.sound}

    def _serving(self) -> str | None:
        order = [*reversed(self.stack), *self._unpromoted()]
        return next((name for name in order if self.sound.get(name)), None)

    def _unpromoted(self) -> list[str]:
        sound = sorted((name for name, is_sound in self.sound.items() if is_sound), reverse=True)
        return [name for name in sound if name in self.defaults] or sound

    def _forget(self, name: str) -> None:
        del self.sound[name]
        self.defaults.discard(name)


TestRepository = RepositoryMachine.TestCase
TestRepository.settings = settings(max_examples=60, stateful_step_count=40)
