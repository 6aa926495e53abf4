"""Tests `streamd/runtime/lanes/server_numbers.py`: the number is that of the server that has the slot at present."""

from pathlib import Path

import numpy as np

from streamd.runtime.lanes.server_numbers import ServerNumbers
from streamd.runtime.state.state import WindowLimits
from tests.support.contracts import make_contract
from tests.support.state_files import opened, send, whole

LIMITS = WindowLimits(capacity=3, need=2, late_steps=8, grace_seconds=10.0)


def test_a_number_is_that_of_the_present_server_of_a_slot(tmp_path: Path) -> None:
    with opened(tmp_path, make_contract(), LIMITS) as state:
        for server in ("known", "unknown", "other"):
            send(state, server, 100, whole(1.0))
        numbers = ServerNumbers({"known": 7, "other": 8, "later": 9}, state.directory)
        slots = np.array([state.directory.slots[server] for server in ("other", "unknown", "known")])
        for _ in range(2):
            assert numbers.read(slots).tolist() == [8, 0, 7]
        state.forget(int(slots[0]))
        send(state, "later", 100, whole(1.0))
        assert numbers.read(slots).tolist() == [9, 0, 7]
        state.forget(int(slots[2]))
        send(state, "unknown-too", 100, whole(1.0))
        assert numbers.read(slots).tolist() == [9, 0, 0]


def test_without_numbers_one_is_for_all(tmp_path: Path) -> None:
    with opened(tmp_path, make_contract(), LIMITS) as state:
        send(state, "a", 100, whole(1.0))
        assert ServerNumbers({}, state.directory).read(np.array([0, 0])).tolist() == [0]
