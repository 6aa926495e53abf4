"""Tests `streamd/tools/loadtest/verdict.py`: the model of the contract against a slow one that is obviously right."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from streamd.tools.loadtest.daemon import RowTotals
from streamd.tools.loadtest.ledger import Ledger, LedgerShape
from streamd.tools.loadtest.quantiles import count_faults, find_disordered, find_infinite
from streamd.tools.loadtest.verdict import DueRows, Evidence, Latency, ReplayVerdict

CONTEXT, NEED = 4, 2


@given(
    arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 3))),
    st.data(),
)
def test_due_rows_and_contexts_are_those_of_the_naive_model(accepted: np.ndarray, data: st.DataObject) -> None:
    steps, servers = accepted.shape
    prior = data.draw(arrays.arrays(np.bool_, (CONTEXT - 1 + steps, servers)))
    due = DueRows.compute(accepted, prior, CONTEXT, NEED)
    for server in range(servers):
        before = {step - (CONTEXT - 1) for step in np.nonzero(prior[:, server])[0].tolist()}
        held = before | set(np.nonzero(accepted[:, server])[0].tolist())
        for step in range(steps):
            have = len([one for one in held if step - CONTEXT < one <= step])
            assert due.context[step, server] == have
            newer = all(one < step for one in before)
            assert due.rows[step, server] == (accepted[step, server] and newer and have >= NEED)


@given(
    arrays.arrays(
        np.float16,
        st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 4)),
        elements=st.floats(width=16),
    )
)
def test_half_precision_values_are_ordered_as_floats(values: np.ndarray) -> None:
    expected = find_disordered(values.astype(np.float64))
    naive = [
        any(
            not all(low <= high for low, high in itertools.pairwise(line)) or np.isnan(line).any()
            for line in one.reshape(-1, one.shape[-1]).tolist()
        )
        for one in values
    ]
    assert find_disordered(values).tolist() == expected.tolist() == naive


@given(
    arrays.arrays(
        np.float16,
        st.tuples(st.integers(0, 9), st.integers(1, 2), st.integers(1, 3), st.integers(1, 4)),
        elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 65504.0, -65504.0, 2.0**-24, np.nan, np.inf, -np.inf]),
    ),
    st.booleans(),
    st.sampled_from([1, 5, 2**15]),
    st.booleans(),
)
def test_faults_are_counted_as_each_forecast_has_them(
    values: np.ndarray, is_sorted: bool, block_values: int, is_aligned: bool
) -> None:
    values = np.sort(values, axis=-1) if is_sorted else values
    shifted = np.zeros(values.nbytes + 1, np.uint8)[1:].view(np.float16).reshape(values.shape)
    shifted[...] = values
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamd.tools.loadtest.quantiles.BLOCK_VALUES", block_values)
        found = count_faults(values if is_aligned else shifted)
    exact = values.astype(np.float64)
    assert found == (int(find_disordered(exact).sum()), int(find_infinite(exact).sum()))


def make_evidence(
    received: list[int], accepted: list[int], *, has_restarted: bool = False, is_gone: bool = False
) -> Evidence:
    """One server, one subscriber; every row is due."""
    ledger = Ledger.create(LedgerShape(len(received), 1, 1, 1))
    ledger.received[0, :, 0] = received
    ledger.accepted[:, 0] = accepted
    rows = (ledger.accepted > 0).astype(np.bool_)
    due = DueRows(rows, np.zeros(rows.shape, dtype=np.int32))
    earlier = (ledger.accepted < max(accepted)) & rows if has_restarted else np.zeros(rows.shape, dtype=np.bool_)
    return Evidence(
        ledger=ledger,
        due=due,
        matches=[np.ones(1, dtype=np.bool_)],
        earlier_generation=earlier,
        has_no_last_counts=is_gone,
    )


def judge(found: Evidence, superseded: int = 0) -> ReplayVerdict:
    return found.judge(RowTotals(superseded=superseded), 0, found.ledger.shape.steps, measured=True)


def test_an_unreceived_row_is_superseded_or_missing() -> None:
    verdict = judge(make_evidence([1, 0, 0, 0, 1], [1] * 5), superseded=2)
    assert (verdict.expected, verdict.received, verdict.superseded, verdict.missing) == (5, 2, 2, 1)
    assert verdict.faults == {"missing": 1}


def test_more_superseded_than_unreceived_rows_are_overcounted_and_not_lost() -> None:
    verdict = judge(make_evidence([1, 0, 1], [1] * 3), superseded=3)
    assert (verdict.superseded, verdict.overcounted, verdict.missing) == (1, 2, 0)


def test_rows_of_an_earlier_generation_are_interrupted_only_if_a_newer_one_was_received() -> None:
    verdict = judge(make_evidence([1, 0, 0, 1], [1, 1, 1, 2], has_restarted=True))
    assert (verdict.interrupted, verdict.missing) == (2, 0)
    verdict = judge(make_evidence([1, 0, 0, 0], [1, 1, 1, 2], has_restarted=True))
    assert (verdict.interrupted, verdict.missing) == (0, 3)


def test_a_forecast_repeated_after_a_restart_is_not_a_duplicate() -> None:
    assert judge(make_evidence([2, 1], [1, 2], has_restarted=True)).faults == {}
    assert judge(make_evidence([2, 1], [1, 1])).faults == {"duplicated": 1}


def test_unreceived_rows_of_a_lost_daemon_are_interrupted_not_missing() -> None:
    verdict = judge(make_evidence([1, 0, 0], [1] * 3, is_gone=True), superseded=1)
    assert (verdict.superseded, verdict.interrupted, verdict.missing) == (1, 1, 0)


def test_percentiles_are_exact() -> None:
    latency = Latency.from_seconds(np.arange(1, 101, dtype=np.float32) / np.float32(1000))
    assert (latency.count, latency.max_ms) == (100, 100.0)
    assert latency.p50_ms == 50.5
    assert Latency.from_seconds(np.zeros(0, dtype=np.float32)).p50_ms is None
