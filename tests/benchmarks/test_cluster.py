"""Tests `benchmarks/cluster/`: what the run of faults would find, and how it measures a takeover."""

import io
import time

import msgspec
import numpy as np
import pytest

from benchmarks.chaos.history import CELLS, ServerHistory
from benchmarks.chaos.journal import Journal
from benchmarks.chaos.model import CONTRACT, NEED, OFFSETS, make_forecasts, make_value
from benchmarks.cluster.many_faults import SAME, add_up
from benchmarks.cluster.network import LoopbackNetwork, NetworkError
from benchmarks.cluster.readers import ForecastLedger
from benchmarks.cluster.site import LeaseWatch
from streamd.cluster.log import Entry
from streamd.core.arrays import Float32
from streamd.core.cluster.lease_actions import Lease

MODEL = next(iter(OFFSETS))
FIRST_STEP = 1_000
NAME = "web-01"


class LedgerRig:
    """A ledger of one server, whose rows are sent and acknowledged one by one."""

    def __init__(self) -> None:
        self.journal = Journal(io.StringIO())
        self.history = ServerHistory(NAME)
        self.ledger = ForecastLedger({NAME: self.history}, 1, self.journal)
        self.rows: list[list[float]] = []

    def send_row(self) -> None:
        """Send the next row; it is acknowledged at once."""
        step = FIRST_STEP + len(self.rows)
        self.rows.append([make_value(0, step, cell, 0) for cell in CELLS])
        for write in self.history.begin_write(step, dict(enumerate(self.rows[-1])), time.monotonic()):
            write.acked_at = time.monotonic()

    def make_values(self) -> Float32:
        """Return the forecast of the newest row, each row of the window sorted."""
        window = np.full((1, CONTRACT.context_length, len(CELLS)), np.nan, np.float32)
        newest = self.rows[-CONTRACT.context_length :]
        window[0, -len(newest) :] = newest
        values: Float32 = np.sort(make_forecasts(window, OFFSETS[MODEL])[0].transpose(1, 0, 2), axis=-1)
        return values

    def take(self, values: Float32, *, fence: int = 1, reader: str = "node-1") -> None:
        """Let a reader get a forecast of the newest row."""
        origin = (FIRST_STEP + len(self.rows)) * CONTRACT.step_seconds
        self.ledger.take(reader, NAME, origin, MODEL, len(self.rows), fence, values)


@pytest.fixture
def rig() -> LedgerRig:
    rig = LedgerRig()
    for _ in range(NEED):
        rig.send_row()
    return rig


def test_a_forecast_that_comes_to_two_readers_is_right(rig: LedgerRig) -> None:
    rig.take(rig.make_values())
    rig.take(rig.make_values(), reader="node-2")
    assert not rig.journal.findings


def test_a_forecast_of_other_numbers_is_found(rig: LedgerRig) -> None:
    values = rig.make_values()
    rig.take(values.copy())
    values[0, -1, 0] += 1
    rig.take(values, fence=2, reader="node-2")
    assert rig.journal.findings["doubled"] == 1
    assert rig.journal.findings["wrong_forecast"] == 1


def test_a_forecast_outside_the_log_may_be_replaced(rig: LedgerRig) -> None:
    values = rig.make_values()
    rig.take(values, fence=0)
    rig.take(values, fence=2)
    assert not rig.journal.findings
    assert rig.journal.checked["forecasts_outside_the_log"] == 1


def test_an_acknowledged_row_that_a_window_lacks_is_found(rig: LedgerRig) -> None:
    del rig.rows[-2]
    rig.rows.insert(-1, [make_value(1, 0, cell, 0) for cell in CELLS])
    rig.take(rig.make_values())
    assert rig.journal.findings["wrong_forecast"] == 1


def test_a_takeover_ends_with_the_forecast_of_a_row_that_was_sent_after_the_death(rig: LedgerRig) -> None:
    rig.ledger.begin_trial([0])
    rig.take(rig.make_values())
    assert rig.ledger.list_waiting() == [0]  # that row was sent before
    rig.send_row()
    rig.take(rig.make_values())
    assert rig.ledger.list_waiting() == []
    assert rig.ledger.taken_over[0] >= 0.0


def test_hosts_of_the_loopback_interface_cannot_be_cut_off() -> None:
    network = LoopbackNetwork()
    first, second = network.add_host("a"), network.add_host("b")
    assert first.front != second.front
    with pytest.raises(NetworkError, match="a cannot be cut off"):
        network.cut(first, from_nats_only=True)


def test_the_watch_reads_leases_as_nodes_write_them() -> None:

    watch = LeaseWatch()
    watch.see("shard.3", Entry(msgspec.msgpack.encode(Lease(node="node-1", run=2)), 7))
    watch.see("node.node-1", Entry(b"other keys are not leases", 8))
    assert (watch.list_shards("node-1"), watch.fences) == ([3], {3: 7})


def test_results_of_several_clusters_are_added_up_and_a_missing_one_is_a_finding() -> None:
    trial = {
        "fault": "node_killed",
        "taken_over_seconds": [1.0, 3.0],
        "longest_pause_seconds": 3.0,
        "acked_rows": 5,
        "findings": 1,
    }
    result = {
        **dict.fromkeys(SAME, 4),
        "trials": [trial],
        "acked_rows": 7,
        "subject_forecasts": 2,
        "checked": {"windows": 3},
        "findings": {"lost_rows": 1},
    }
    found = add_up([result, result], 3)
    assert found["faults"]["node_killed"]["takeover"] == {"count": 4, "median": 2.0, "worst": 3.0}
    assert found["faults"]["node_killed"]["times"] == 2
    assert (found["acked_rows"], found["checked"]) == (14, {"windows": 6})
    assert found["findings"] == {"lost_rows": 2, "no_result": 1}
