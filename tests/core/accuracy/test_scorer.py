"""Tests `streamd/core/accuracy/scorer.py` against a naive model that keeps everything: losses, memory, fairness."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.accuracy.pending import AccuracyLimits
from streamd.core.accuracy.sampling import choose_origins, hash_origins
from streamd.core.accuracy.scorer import ForecastScorer
from streamd.core.accuracy.scores import SlidingSums, parse_training_scores
from streamd.core.arrays import Float32
from tests.support.contracts import make_contract
from tests.support.naive_accuracy import NaiveScorer

CONTRACT = make_contract()
TARGETS, HORIZON, QUANTILES = CONTRACT.forecast_shape
CONTEXT = CONTRACT.context_length
LIMITS = AccuracyLimits(
    scored_servers=2, settle_steps=1, tolerance_steps=2, range_steps=3, period_steps=4, periods=2, versions=2
)
SLOTS = 3
VERSIONS = ("a", "b")


def make_scorer(
    limits: AccuracyLimits = LIMITS, versions: tuple[str, ...] = VERSIONS, servers: int = 1
) -> ForecastScorer:
    scorer = ForecastScorer(CONTRACT, limits, 100)
    scorer.set_server_count(servers)  # by default fewer than there are places: every origin is chosen
    for name in versions:
        scorer.follow(name)
    return scorer


def forecast_of(value: float, width: float = 1.0) -> Float32:
    """Return a forecast that is the same at every step: quantiles `width` apart around `value`."""
    return np.broadcast_to(np.array([value - width, value, value + width], np.float32), CONTRACT.forecast_shape).copy()


def rows_of(*values: float) -> Float32:
    """Return rows with one value for both targets in each."""
    return np.repeat(np.array(values, np.float32)[:, None], TARGETS, axis=1)


DRAWN = [0, 238, 95, 715]
"""The hashes of the first version of the function, as numbers below 1,024: they must never change."""

PAST = rows_of(0, 2, 0, 2, 0, 2, 0, 2)


def take(scorer: ForecastScorer, name: str, slot: int, step: int, forecast: Float32, past: Float32 = PAST) -> bool:
    version = scorer.versions[name]
    offered = scorer.offer_forecasts(version, np.array([slot]), np.array([step]))
    return bool(offered) and add(scorer, name, slot, 0, step, forecast, past)


def add(
    scorer: ForecastScorer, name: str, slot: int, generation: int, step: int, forecast: Float32, rows: Float32 = PAST
) -> bool:
    version = scorer.versions[name]
    return scorer.add_forecast(version, slot, generation=generation, step=step, forecast=forecast, rows=rows)


def arrive(scorer: ForecastScorer, slot: int, newest: int, rows: Float32) -> None:
    """Score a server whose newest row is of step `newest`, and is the last of `rows`."""
    scorer.now_step = max(scorer.now_step, newest)
    pending = scorer.pending.get(slot)
    if pending is not None and scorer.is_due(pending, newest):
        scorer.score(pending, newest, rows)


# ---------------------------------------------------------------- against the naive model
Event = tuple[str, int, Any]
NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.5, -4.0, 100.0, math.nan])
ROWS = st.tuples(NUMBERS, NUMBERS)
SERVERS = st.sampled_from([0] * 4 + [1, 1, 2])
GIVEN: dict[str, st.SearchStrategy[Any]] = {
    "row": st.tuples(st.sampled_from([1] * 8 + [2, 3, 9]), ROWS),
    "post": st.tuples(st.sampled_from(["a", "ab", "ab", "b"]), st.integers(0, 2), st.integers(0, 9)),
    "sweep": st.none(),
    "amend": st.tuples(st.integers(0, 5), ROWS),
    "forget": st.none(),
    "ahead": st.integers(1, 12),
}
# Made once: a strategy that is made for every event takes longer than the scorer.
EACH = {kind: st.tuples(st.just(kind), SERVERS, given) for kind, given in GIVEN.items()}
# Frequent events are listed more often: a server that reports, is forecast and scored.
KINDS = st.sampled_from(["row"] * 6 + ["post"] * 5 + ["sweep"] * 4 + ["amend", "forget", "ahead"])
EVENTS = st.lists(KINDS.flatmap(EACH.__getitem__), min_size=15, max_size=80)


class Twins:
    """The scorer and the naive model with the same input; all rows of the servers are kept."""

    def __init__(self) -> None:
        self.scorer = make_scorer()
        self.naive = NaiveScorer(CONTRACT, LIMITS, list(self.scorer.shape.intervals))
        self.rows: list[dict[int, list[float]]] = [{99: [1.0, 2.0]} for _ in range(SLOTS)]
        for number, slot in enumerate(range(SLOTS)):
            for step in range(92, 100):
                self.rows[slot][step] = [float(step % 3 + number), float(step % 2)]

    def newest(self, slot: int) -> int:
        return max(self.rows[slot])

    def window(self, slot: int, last: int) -> dict[int, list[float]]:
        """Return the rows of the window up to step `last`."""
        oldest = self.newest(slot) - CONTEXT + 1
        return {step: row for step, row in self.rows[slot].items() if oldest <= step <= last}

    def array(self, slot: int, last: int) -> Float32:
        oldest = self.newest(slot) - CONTEXT + 1
        window = self.window(slot, last)
        missing = [math.nan] * TARGETS
        steps = [window.get(step, missing) for step in range(oldest, last + 1)]
        return np.array(steps, np.float32).reshape(-1, TARGETS)

    def feed(self, event: Event) -> None:
        kind, slot, given = event
        if kind == "row":
            self.rows[slot][self.newest(slot) + given[0]] = list(given[1])
        elif kind == "amend":
            step = self.newest(slot) - given[0]
            self.rows[slot][step] = list(given[1])
        elif kind == "forget":
            self.scorer.forget(slot)
            self.naive.forget(slot)
        elif kind == "ahead":  # another server has newer rows
            self.scorer.now_step += given
            self.naive.now_step += given
        elif kind == "post":
            self.post(slot, *given)
        else:
            newest = self.newest(slot)
            pending = self.scorer.pending.get(slot)
            if pending is not None and self.scorer.is_due(pending, newest):
                self.scorer.score(pending, newest, self.array(slot, newest))
            self.naive.sweep(slot, newest, self.window(slot, newest))

    def post(self, slot: int, names: str, behind: int, seed: int) -> None:
        """Offer forecasts of versions from a row that may no longer be the newest."""
        step = self.newest(slot) - behind
        for place, name in enumerate(names):
            values = np.random.default_rng(seed + place).normal(1.0, 2.0, CONTRACT.forecast_shape)
            forecast = np.sort(values, axis=-1).astype(np.float32)
            self.naive.now_step = max(self.naive.now_step, step)
            expected = self.naive.take(name, slot, step, forecast, self.window(slot, step))
            assert take(self.scorer, name, slot, step, forecast, self.array(slot, step)) == expected
            forecast[:] = np.nan  # it was a view of the board, where the next forecast is posted

    def check(self) -> None:
        scorer, naive = self.scorer, self.naive
        scorer.drop_old_scores()
        assert {slot: (pending.step, pending.done_steps) for slot, pending in scorer.pending.items()} == {
            slot: (pending.step, pending.done) for slot, pending in naive.pending.items()
        }
        for name in VERSIONS:
            scores = scorer.versions[name].scores
            for target in range(TARGETS):
                assert same(scores.compute_loss()[target], naive.loss(name, target))
                assert scores.count_points()[target] == sum(p.target == target for p in naive.kept(name))
                for index in range(QUANTILES):
                    assert same(scores.compute_below_share()[target, index], naive.share(name, target, "below", index))
                for index in range(len(naive.intervals)):
                    assert same(
                        scores.compute_inside_share()[target, index], naive.share(name, target, "inside", index)
                    )
        compared = scorer.comparisons.summarize().get(VERSIONS)
        for row in range(scorer.shape.ranges + 1):
            count, difference, error = naive.paired(row)
            found = (0, math.nan, math.nan)
            if compared is not None:
                found = (compared[row].forecasts, compared[row].difference, compared[row].standard_error)
            assert found[0] == count
            assert same(found[1], difference)
            assert same(found[2], error)


def same(found: float, expected: float) -> bool:
    """Whether both are equal except for rounding: the naive model sums in another order."""
    if math.isnan(found) or math.isnan(expected):
        return math.isnan(found) and math.isnan(expected)
    return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-6)


@given(EVENTS)
def test_the_scorer_agrees_with_a_list_of_all_scored_values(events: list[Event]) -> None:
    twins = Twins()
    for event in events:
        twins.feed(event)
        assert len(twins.scorer.pending) <= LIMITS.scored_servers
    twins.check()


def test_the_property_compares_real_scores() -> None:
    """A plain run of the same twins has losses, coverage and pairs, so that no check compares empty results."""
    twins = Twins()
    for number in range(30):
        for slot in (0, 1):
            twins.feed(("post", slot, ("ab", 0, number)))
            twins.feed(("row", slot, (1, (float(number % 3), float(number % 2)))))
            twins.feed(("sweep", slot, None))
    twins.check()
    assert math.isfinite(twins.scorer.versions["a"].scores.compute_whole_loss())
    assert twins.naive.paired(twins.scorer.shape.ranges)[0] > 1
    assert twins.scorer.counts.finished > 2


# ---------------------------------------------------------------- the loss
def test_a_loss_is_pinball_over_the_series_deviation_as_in_training() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 100, forecast_of(10.0, 5.0), rows_of(0, 20, 0, 20, 0, 20, 0, 20))
    arrive(scorer, 0, 105, rows_of(20, 20, 20, 20, 20))
    # Quantiles 5, 10, 15 and a truth of 20; the series is the past and the scored rows.
    scores = scorer.versions["a"].scores
    deviation = np.std([0, 20] * 4 + [20] * 4)
    assert scores.compute_whole_loss() == pytest.approx((0.1 * 15 + 0.5 * 10 + 0.9 * 5) / 3 / deviation)
    assert scores.compute_below_share().tolist() == [[0.0, 0.0, 0.0]] * TARGETS
    assert scores.scored_steps == HORIZON
    assert scores.forecasts == 1


def test_coverage_counts_the_ends_and_a_value_on_a_quantile_as_below() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 100, forecast_of(10.0, 5.0))
    arrive(scorer, 0, 105, rows_of(5, 15, 10, 16, 0))
    scores = scorer.versions["a"].scores
    assert scorer.shape.interval_names == ["0.1-0.9"]
    assert scores.compute_inside_share()[0].tolist() == [0.75]
    assert scores.compute_below_share()[0].tolist() == [0.25, 0.5, 0.75]


def test_there_is_no_loss_before_every_range_of_the_horizon_has_one() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 100, forecast_of(1.0))
    arrive(scorer, 0, 104, rows_of(1, 1, 1, 1))
    scores = scorer.versions["a"].scores
    assert math.isnan(scores.compute_whole_loss())
    assert scores.compute_range_loss()[0] > 0
    assert math.isnan(scores.compute_range_loss()[1])
    arrive(scorer, 0, 105, rows_of(1, 1, 1, 1, 1))
    short, long = scores.compute_range_loss()
    assert scores.compute_whole_loss() == pytest.approx((3 * short + long) / 4), (
        "every step of the horizon weighs the same"
    )


@pytest.mark.parametrize(
    "past",
    [
        rows_of(5, 5, 5, 5, 5, 5, 5, 5),
        rows_of(*[math.nan] * 5, 1, 2, 3),
        rows_of(1, 2, 3),
        np.empty((0, 2), np.float32),
    ],
)
def test_a_series_that_is_flat_or_hardly_known_is_not_scored(past: Float32) -> None:
    scorer = make_scorer()
    assert not take(scorer, "a", 0, 100, forecast_of(5.0), past)
    assert scorer.pending == {}


def test_a_target_with_few_reported_values_is_not_scored_but_the_other_is() -> None:
    scorer = make_scorer()
    past = PAST.copy()
    past[:5, 1] = math.nan
    assert take(scorer, "a", 0, 100, forecast_of(1.0), past)
    arrive(scorer, 0, 105, rows_of(1, 1, 1, 1, 1))
    assert scorer.versions["a"].scores.count_points().tolist() == [4.0, 0.0]


def test_a_target_that_is_unknown_in_a_forecast_is_scored_of_no_version() -> None:
    scorer = make_scorer()
    other = forecast_of(1.0)
    other[0] = math.nan
    assert take(scorer, "a", 0, 100, forecast_of(2.0))
    assert take(scorer, "b", 0, 100, other)
    arrive(scorer, 0, 105, rows_of(1, 1, 1, 1, 1))
    first, second = (scorer.versions[name].scores for name in "ab")
    assert first.count_points().tolist() == second.count_points().tolist() == [0.0, 4.0]
    assert first.compute_whole_loss() == pytest.approx(3.5 * second.compute_whole_loss()), "0.7 and 0.2 of each value"
    assert scorer.comparisons.summarize()["a", "b"][-1].forecasts == 1


def test_a_missing_value_is_not_scored() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 100, forecast_of(1.0))
    rows = rows_of(1, math.nan, 1, 1, 1)
    rows[0, 1] = math.nan
    arrive(scorer, 0, 105, rows)
    assert scorer.versions["a"].scores.count_points().tolist() == [3.0, 2.0]


def test_a_late_value_counts_until_its_row_has_settled() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 100, forecast_of(1.0))
    pending = scorer.pending[0]
    assert not scorer.is_due(pending, 101)
    arrive(scorer, 0, 102, rows_of(1, 1))  # step 101 has settled; 102 has not
    arrive(scorer, 0, 103, rows_of(50, 7, 1))  # 101 is amended too late, 102 in time
    past = [0, 2] * 4
    first = (0.1 * 1 + 0.1 * 1) / 3 / np.std([*past, 1])
    second = (0.1 * 7 + 0.5 * 6 + 0.9 * 5) / 3 / np.std([*past, 1, 7])
    assert pending.losses["a"][0, 0] == pytest.approx(first + second)


def test_a_forecast_whose_rows_never_arrive_expires() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 100, forecast_of(1.0))
    take(scorer, "b", 0, 100, forecast_of(2.0))
    arrive(scorer, 0, 102, rows_of(1, 1))
    scorer.now_step = 100 + HORIZON + LIMITS.settle_steps + LIMITS.tolerance_steps
    assert not scorer.is_due(scorer.pending[0], 102)
    scorer.now_step += 1
    arrive(scorer, 0, 102, rows_of(1, 1))  # the rows that exist are scored, settled or not
    assert scorer.pending == {}
    assert (scorer.counts.finished, scorer.counts.expired) == (0, 1)
    assert scorer.versions["a"].scores.scored_steps == 2
    assert scorer.comparisons.summarize()[VERSIONS][-1].forecasts == 1, "half of its horizon was known"


def test_replayed_history_takes_no_place() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 1_000, forecast_of(1.0))
    assert not take(scorer, "a", 1, 900, forecast_of(1.0))
    assert list(scorer.pending) == [0]


def test_scores_are_of_the_last_periods_only() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 100, forecast_of(1.0))
    arrive(scorer, 0, 105, rows_of(1, 1, 1, 1, 1))
    scores = scorer.versions["a"].scores
    assert scores.count_points().sum() == HORIZON * TARGETS
    for now, left in ((107, True), (111, True), (112, False)):
        scorer.now_step = now
        scorer.drop_old_scores()
        assert scores.count_points().any() == left
    assert scores.scored_steps == HORIZON, "a counter never goes back"


def test_periods_without_values_are_empty() -> None:
    sums = SlidingSums(3, count=(1,))
    for period, left in ((7, 1), (8, 2), (10, 2), (11, 2), (20, 1), (20, 2), (19, 3)):
        sums.advance(period)
        sums.get_current("count")[0] += 1
        assert sums.compute_total("count")[0] == left


# ---------------------------------------------------------------- two versions
def test_only_forecasts_of_both_versions_from_the_same_origin_are_compared() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 100, forecast_of(1.0))
    assert not take(scorer, "b", 0, 101, forecast_of(1.0)), "another origin"
    assert take(scorer, "b", 0, 100, forecast_of(3.0))
    assert not take(scorer, "b", 0, 100, forecast_of(3.0)), "once"
    arrive(scorer, 0, 105, rows_of(1, 1, 1, 1, 1))
    *ranges, whole = scorer.comparisons.summarize()[VERSIONS]
    assert [each.forecasts for each in ranges] == [1, 1]
    deviation = np.std([0, 2] * 4 + [1] * 4)
    assert whole.first_loss == pytest.approx((0.1 + 0.1) / 3 / deviation)
    assert whole.second_loss == pytest.approx((0.9 * 1 + 0.5 * 2 + 0.1 * 3) / 3 / deviation)
    assert whole.difference == pytest.approx(whole.second_loss - whole.first_loss)
    assert math.isnan(whole.standard_error), "one observation has none"


def test_a_forecast_that_arrives_after_scoring_began_is_left_out() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 100, forecast_of(1.0))
    arrive(scorer, 0, 102, rows_of(1, 1))
    assert not take(scorer, "b", 0, 100, forecast_of(1.0))
    assert not add(scorer, "b", 0, 0, 100, forecast_of(1.0))


def test_a_shadow_only_joins_pending_forecasts_while_another_version_opens_them() -> None:
    scorer = make_scorer(versions=("a",))
    scorer.follow("b", shadow=True)
    assert not take(scorer, "b", 0, 100, forecast_of(1.0))
    assert take(scorer, "a", 0, 100, forecast_of(1.0))
    assert take(scorer, "b", 0, 100, forecast_of(1.0))
    scorer.unfollow("a")
    assert take(scorer, "b", 1, 100, forecast_of(1.0))


def test_a_removed_version_loses_its_scores_and_its_pending_forecasts() -> None:
    scorer = make_scorer()
    for name in VERSIONS:
        take(scorer, name, 0, 100, forecast_of(1.0))
    take(scorer, "a", 1, 100, forecast_of(1.0))
    arrive(scorer, 0, 104, rows_of(1, 1, 1, 1))
    scorer.unfollow("a")
    scorer.unfollow("a")
    assert list(scorer.pending) == [0], "no version has a forecast of the other server"
    assert scorer.comparisons.summarize() == {}
    arrive(scorer, 0, 105, rows_of(1, 1, 1, 1, 1))
    assert math.isfinite(scorer.versions["b"].scores.compute_whole_loss())


def test_one_version_too_many_replaces_the_one_with_the_oldest_forecast() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 100, forecast_of(1.0))
    scorer.follow("c")
    assert set(scorer.versions) == {"a", "c"}


# ---------------------------------------------------------------- memory and fairness
def test_a_slot_with_another_server_starts_again() -> None:
    scorer = make_scorer()
    take(scorer, "a", 0, 100, forecast_of(1.0), rows_of(0, 1000, 0, 1000, 0, 1000, 0, 1000))
    scorer.forget(0)
    assert scorer.pending == {}
    assert take(scorer, "a", 0, 101, forecast_of(1.0))
    assert not add(scorer, "b", 0, 1, 101, forecast_of(1.0)), "of the slot's next server"
    arrive(scorer, 0, 106, rows_of(1, 1, 1, 1, 1))
    loss = (0.1 + 0.1) / 3 / np.std([0, 2] * 4 + [1] * 4)
    assert scorer.versions["a"].scores.compute_whole_loss() == pytest.approx(loss), (
        "the values of the former server do not count"
    )


@dataclass
class Footprint:
    """Measures the bytes of the numpy arrays of a scorer."""

    scorer: ForecastScorer

    def nbytes(self) -> int:
        seen: set[int] = set()
        return sum(arrays_within(self.scorer, seen))


def arrays_within(thing: Any, seen: set[int]) -> list[int]:
    """Return the size of every array that can be reached, each once."""
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return [thing.nbytes] if thing.base is None else arrays_within(thing.base, seen)
    if isinstance(thing, dict):
        inner = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set):
        inner = list(thing)
    else:
        names = getattr(type(thing), "__slots__", ())
        inner = [getattr(thing, name) for name in names] + list(getattr(thing, "__dict__", {}).values())
    return [size for each in inner for size in arrays_within(each, seen)]


def test_memory_is_bounded_for_any_number_of_servers_and_steps() -> None:
    places = 20
    scorer = make_scorer(AccuracyLimits(scored_servers=places, range_steps=3), servers=100)
    scorer.follow("b", shadow=True)
    empty = Footprint(scorer).nbytes()
    most = 0
    for step in range(100, 300):
        for slot in range(100):
            for name in VERSIONS:
                take(scorer, name, slot, step, forecast_of(1.0))
            arrive(scorer, slot, step, PAST)
        assert len(scorer.pending) <= places
        most = max(most, Footprint(scorer).nbytes())
    assert scorer.counts.finished > 500
    one = forecast_of(0.0).nbytes + TARGETS * 8 * scorer.shape.ranges
    each = len(VERSIONS) * one + TARGETS * 8 * (1 + scorer.shape.ranges)
    compared = 2 * scorer.limits.periods * (scorer.shape.ranges + 1) * 5 * 8
    assert 0 < most - empty <= places * each + compared


def test_every_server_is_sampled_and_the_places_are_filled() -> None:
    places, servers = 10, 40
    scorer = make_scorer(AccuracyLimits(scored_servers=places, settle_steps=1), ("a",), servers)
    forecast = forecast_of(1.0)
    turns = [0] * servers
    filled = []
    for step in range(100, 1_100):
        for slot in range(servers):
            turns[slot] += take(scorer, "a", slot, step, forecast)
            arrive(scorer, slot, step, PAST)
        filled.append(len(scorer.pending))
    # A pending forecast lasts 5 steps, so 10 places give 1,000 steps about 2,000 samples, 50 of each server.
    assert 0.75 * places < np.mean(filled) <= places
    assert min(turns) > 25
    assert max(turns) < 75


def test_the_choice_is_the_same_on_every_run() -> None:
    hashes = hash_origins(np.array([0, 0, 1, 29_999]), np.array([0, 1, 0, 5_879_028]))
    assert (hashes >> np.uint64(54)).tolist() == DRAWN


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 10**7)), unique_by=lambda origin: origin[0]),
    st.sampled_from([0, 1, 2**40, 2**62, 2**63, 2**64 - 1, 2**64]),
)
def test_many_origins_are_chosen_like_one(origins: list[tuple[int, int]], threshold: int) -> None:
    slots, steps = (np.array([origin[place] for origin in origins], np.int64) for place in (0, 1))
    expected = [_hash_one(*origin) < threshold for origin in origins]
    assert choose_origins(slots, steps, threshold).tolist() == expected


def _hash_one(slot: int, step: int) -> int:
    mixed = (slot * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03) % 2**64
    return (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 % 2**64


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(100, 110)), min_size=1, max_size=12))
def test_a_batch_of_forecasts_is_offered_like_one_after_another(batches: list[tuple[str, int]]) -> None:
    """Some have a pending forecast, of this or another version, of this or another step."""
    limits = AccuracyLimits(scored_servers=50, settle_steps=1, tolerance_steps=2, versions=2)
    together, alone = (make_scorer(limits, servers=80) for _ in range(2))
    for number, (name, step) in enumerate(batches):
        slots = np.arange(number % 3, 60, 2)
        steps = step + slots % 2
        places = together.offer_forecasts(together.versions[name], slots, steps)
        one_by_one = []
        for place, (slot, own) in enumerate(zip(slots, steps, strict=True)):
            alone.now_step = max(alone.now_step, int(steps.max()))  # the batch is newer than its oldest forecast
            if alone.offer_forecasts(alone.versions[name], np.array([slot]), np.array([own])):
                one_by_one.append(place)
        assert places == one_by_one
        for scorer in (together, alone):
            for place in places:
                add(scorer, name, int(slots[place]), 0, int(steps[place]), forecast_of(1.0))
        assert together.versions[name].latest_step == alone.versions[name].latest_step
    assert list(together.pending) == list(alone.pending)


def test_a_version_that_serves_few_servers_gets_half_of_the_places() -> None:
    scorer = ForecastScorer(CONTRACT, AccuracyLimits(scored_servers=100, settle_steps=1), 100)
    scorer.set_server_count(1_000)
    scorer.follow("a", share=0.95)
    scorer.follow("b", share=0.05)
    # 50 servers fill 50 places at once; 950 servers fill theirs with one origin in ninety.
    assert scorer.versions["b"].threshold == 2**64
    assert scorer.versions["a"].threshold / 2**64 == pytest.approx(1 / 90)


def test_a_version_that_serves_no_more_gives_its_places_to_the_next() -> None:
    scorer = ForecastScorer(CONTRACT, AccuracyLimits(scored_servers=100, settle_steps=1), 100)
    for name in VERSIONS:
        scorer.follow(name)
    scorer.set_server_count(200)
    halved = scorer.versions["b"].threshold
    take(scorer, "b", 0, 112, forecast_of(1.0))
    take(scorer, "a", 0, 100, forecast_of(1.0))
    scorer.set_server_count(200)
    assert scorer.versions["b"].threshold == halved
    take(scorer, "b", 0, 113, forecast_of(1.0))
    scorer.set_server_count(200)
    assert scorer.versions["b"].threshold > 2 * halved
    assert scorer.versions["a"].threshold == 0


def test_without_a_place_nothing_is_chosen() -> None:
    scorer = make_scorer(AccuracyLimits(scored_servers=0))
    assert not take(scorer, "a", 0, 100, forecast_of(1.0))


@pytest.mark.parametrize("wrong", [{"scored_servers": -1}, {"settle_steps": -1}, {"range_steps": 0}, {"periods": 0}])
def test_invalid_limits_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        AccuracyLimits(**wrong)


# ---------------------------------------------------------------- the scores of training
def test_drift_is_measured_against_whole_fleets() -> None:
    info = {
        "data": {"smd": {}, "asd": {}},
        "figures": {"smd": {"nPL": 0.1}, "smd_every_fifth": {"nPL": 9.0}, "asd": {"nPL": 0.3}, "constants": {"x": 0.0}},
    }
    scores = parse_training_scores(info)
    assert scores is not None
    assert scores.loss == pytest.approx(0.2)
    assert scores.fleets == ("smd", "asd")


@pytest.mark.parametrize(
    "info", [{}, {"figures": 3}, {"figures": {"smd": {"nPL": "good"}}}, {"figures": {"smd": {"nPL": math.nan}}}]
)
def test_a_version_without_training_scores_has_no_drift(info: dict[str, Any]) -> None:
    assert parse_training_scores(info) is None
