"""Tests `streamd/runtime/workers/followed.py`: a worker's knowledge of servers, read from the file and told later."""

from pathlib import Path

from streamd.core.state.layout import make_zeros
from streamd.runtime.state.opening import SharedArrays, open_shared_state
from streamd.runtime.workers.followed import FollowedServers
from streamd.runtime.workers.ownership import find_owning_worker
from streamd.server.workers.memory import COLUMNS
from tests.support.contracts import make_contract
from tests.support.state_files import LIMITS, opened


def test_names_are_read_from_the_file_and_only_changes_are_read_again(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        for number in range(3):
            state.admit(f"web-{number}", 1.0)
        shared = SharedArrays(make_zeros(COLUMNS, LIMITS.capacity))
        follower = open_shared_state(tmp_path, make_contract(), LIMITS, shared)
        followed = FollowedServers(follower, 0, 2)
        assert len(followed.read_all()) == 3
        assert follower.directory.slots == state.directory.slots
        assert followed.read_all() == []
        slot = state.directory.slots["web-1"]
        state.forget(slot)
        state.admit("another", 2.0)
        assert followed.read_all() == [slot]
        assert follower.directory.slots == state.directory.slots
        assert followed.own_slots == sorted(
            place for name, place in state.directory.slots.items() if find_owning_worker(name, 2) == 0
        )
        follower.close()


def test_a_released_slot_is_read_again_if_its_server_stays_after_all(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        slot, _ = state.admit("web-0", 1.0)
        shared = SharedArrays(make_zeros(COLUMNS, LIMITS.capacity))
        follower = open_shared_state(tmp_path, make_contract(), LIMITS, shared)
        followed = FollowedServers(follower, 0, 2)
        followed.read_all()
        before = followed.version
        followed.release(slot)
        assert "web-0" not in follower.directory.slots
        assert followed.version > before
        assert followed.read_all() == [slot]
        assert follower.directory.slots == {"web-0": slot}
        followed.place(slot, "moved")
        assert follower.directory.slots == {"moved": slot}
        assert followed.remove(slot) == "moved"
        assert followed.own_slots == []
        follower.close()
