"""Tests `streamd/core/mailbox.py`: each kind of mailbox is a list of the chosen servers that are unread."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.mailbox import MAX_INDEXED_NAMES, FleetMailbox, NamesMailbox, ServerChoice, make_mailbox
from streamd.core.selection import ServerGlobs

SLOTS = 6
NAMES = ["web-01", "web-02", "db-01", "db-02", "db-[1]", "x"]
"""The names that a slot can get, one after another."""

WEB_ONLY = Caller("web", {Scope.SUBSCRIBE: ["web-*"]})
NOTHING = Caller("none", {Scope.READ: ["*"]})


class NaiveMailbox:
    """The obvious mailbox: lists of slots; a server is decided when `decide` is called."""

    def __init__(self, globs: ServerGlobs, caller: Caller) -> None:
        self.globs, self.caller = globs, caller
        self.unread: list[int] = []
        self.undecided: dict[int, tuple[str, int]] = {}
        self.choices: dict[int, bool] = {}
        self.dropped = 0

    def post(self, slot: int, name: str) -> None:
        if slot not in self.choices and self.globs.is_costly:
            self.undecided[slot] = name, self.undecided.get(slot, (name, 0))[1] + 1
            return
        if self.choices.setdefault(slot, self.includes(name)):
            self.dropped += slot in self.unread
            self.unread += [] if slot in self.unread else [slot]

    def includes(self, name: str) -> bool:
        return self.caller.may(Scope.SUBSCRIBE, name) and self.globs.matches(name)

    def decide(self) -> bool:
        for slot, (name, forecasts) in self.undecided.items():
            self.choices[slot] = self.includes(name)
            if self.choices[slot]:
                self.unread.append(slot)
                self.dropped += forecasts - 1
            del self.undecided[slot]
            return True
        return False

    def forget(self, slot: int) -> None:
        self.unread = [each for each in self.unread if each != slot]
        self.undecided.pop(slot, None)
        self.choices.pop(slot, None)


GLOBS = st.sampled_from(
    [["*"], ["web-*"], ["web-01"], ["db-01", "web-02", "db-[1]"], ["*[-x]0?"], ["*", "*[-x]0?"], ["none"], ["db-?[1]"]]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.lists(st.integers(0, SLOTS - 1), unique=True)),
        st.tuples(st.just("take"), st.integers(0, 4)),
        st.tuples(st.just("forget"), st.integers(0, SLOTS - 1)),
        st.tuples(st.just("decide"), st.integers(0, 3)),
    ),
    max_size=40,
)


@given(GLOBS, st.sampled_from([ANYBODY, WEB_ONLY, NOTHING]), STEPS)
def test_a_mailbox_is_a_list_of_what_is_unread(globs: list[str], caller: Caller, steps: list[tuple[str, Any]]) -> None:
    mailbox = make_mailbox(SLOTS, ServerChoice(ServerGlobs(globs), caller))
    naive = NaiveMailbox(ServerGlobs(globs), caller)
    names = NAMES[:SLOTS]
    for kind, what in steps:
        if kind == "post":
            mailbox.post(np.array(what, np.int64), [names[slot] for slot in what])
            for slot in what:
                naive.post(slot, names[slot])
        elif kind == "take":
            assert mailbox.take(what).tolist() == naive.unread[:what]
            naive.unread = naive.unread[what:]
        elif kind == "forget":
            mailbox.forget(what)
            naive.forget(what)
            names[what] = NAMES[(NAMES.index(names[what]) + 1) % len(NAMES)]
        else:
            for _ in range(what):
                assert mailbox.decide_next() == naive.decide()
        assert (mailbox.ready, mailbox.dropped) == (len(naive.unread), naive.dropped)
        assert mailbox.waiting_slots.tolist() == [*naive.unread, *naive.undecided]
        assert mailbox.waiting == len(mailbox.waiting_slots)


def test_only_a_few_exact_names_need_no_memory_for_each_slot() -> None:
    few = ServerGlobs([f"web-{number}" for number in range(MAX_INDEXED_NAMES - 1)], ["db-[1]"])
    assert isinstance(make_mailbox(SLOTS, ServerChoice(few, ANYBODY)), NamesMailbox)
    for globs in (["*"], ["web-?"], [f"web-{number}" for number in range(MAX_INDEXED_NAMES + 1)]):
        assert isinstance(make_mailbox(SLOTS, ServerChoice(ServerGlobs(globs), ANYBODY)), FleetMailbox)


@pytest.mark.parametrize(("caller", "is_all"), [(ANYBODY, True), (WEB_ONLY, False), (NOTHING, False)])
def test_each_server_is_chosen_only_if_the_token_permits_it(caller: Caller, is_all: bool) -> None:
    assert ServerChoice(ServerGlobs(["*"]), caller).is_all == is_all
    assert not ServerChoice(ServerGlobs(["web-*"]), caller).is_all
