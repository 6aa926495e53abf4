"""Past forecasts scored as the truth arrives: a sample is held, and each step is scored once its row has settled.

Nothing here outlives the process. Time is counted in steps of the grid, by the newest origin that was ever offered.
"""

import numpy as np

from streamd.core.accuracy.comparison import Comparisons
from streamd.core.accuracy.deviations import SeriesDeviations
from streamd.core.accuracy.pending import AccuracyLimits, PendingCounts, PendingForecast, ScoredVersion
from streamd.core.accuracy.sampling import compute_sampling_rate, hash_origin
from streamd.core.accuracy.scores import Scores, ScoreShape
from streamd.core.arrays import Float32, Float64
from streamd.core.contract import ModelContract
from streamd.core.state.windows import NO_STEP

MIN_KNOWN_SHARE = 0.5
"""A target is scored where so much of its window was reported (training's rule), and compared where so much of
what came after was."""

ACTIVE_STEPS = 12
"""A version that offered nothing for so long has no part of the places: it does not serve any more."""


class ForecastScorer:
    """The forecasts that are held, and the figures by version and by pair of versions.

    At most `scored_servers` servers are held, one origin each, with at most `versions` forecasts of
    `(targets, horizon, quantiles) float32`. Which origins are chosen depends on slot and step alone.
    """

    def __init__(self, contract: ModelContract, limits: AccuracyLimits, capacity: int) -> None:
        self.contract = contract
        self.limits = limits
        self.shape = ScoreShape(contract, limits.range_steps, limits.period_steps, limits.periods)
        self.versions: dict[str, ScoredVersion] = {}  # the longest quiet first
        self.comparisons = Comparisons(self.shape)
        self.pending: dict[int, PendingForecast] = {}
        """By slot; the longest unscored first."""
        self.counts = PendingCounts()
        self.now_step = NO_STEP
        self._deviations = SeriesDeviations(capacity, len(contract.targets))
        self._numbers = 0
        self._servers = 0

    # ------------------------------------------------------------ versions
    def follow(self, name: str, *, share: float = 1.0, shadow: bool = False) -> ScoredVersion:
        """Score a version from now on, or change what is known of one.

        `share` is that of the servers which it forecasts; a shadow opens no hold of its own while another version may.
        """
        version = self.versions.get(name)
        if version is None:
            if len(self.versions) >= self.limits.versions:
                self.unfollow(next(iter(self.versions)))
            self._numbers += 1
            version = ScoredVersion(name, Scores(self.shape), self._numbers, latest_step=self.now_step)
            self.versions[name] = version
        version.share, version.is_shadow = share, shadow
        self.set_server_count(self._servers)
        return version

    def unfollow(self, name: str) -> None:
        """Let a version go with its figures; one that is not followed is none."""
        if self.versions.pop(name, None) is None:
            return
        self.comparisons.drop(name)
        for hold in list(self.pending.values()):
            if hold.forecasts.pop(name, None) is not None:
                del hold.losses[name]
            if not hold.forecasts:
                del self.pending[hold.slot]
                self.counts.forgotten += 1
        self.set_server_count(self._servers)

    def set_server_count(self, servers: int) -> None:
        """Choose so often that the places are just filled, with so many servers in all.

        The versions that forecast at present have equal parts of the places: few servers of a candidate are enough.
        """
        self._servers = servers
        active = [each for each in self.versions.values() if self.now_step - each.latest_step <= ACTIVE_STEPS]
        openers = [version for version in active if not version.is_shadow] or active
        length = self.contract.horizon + self.limits.settle_steps
        for version in self.versions.values():
            share = 0.0
            if version in openers:
                share = compute_sampling_rate(
                    self.limits.scored_servers / len(openers), version.share * servers, length
                )
            version.threshold = int(share * 2.0**64)

    # ------------------------------------------------------------ forecasts in
    def offer_forecast(self, version: ScoredVersion, slot: int, step: int) -> bool:
        """Whether this version's forecast of a server from `step` is to be given to `take`; quick, for most are not."""
        if step > version.latest_step:
            version.latest_step = step
            if step > self.now_step:
                self.now_step = step
        hold = self.pending.get(slot)
        if hold is not None:
            return hold.step == step and not hold.done_steps and version.name not in hold.forecasts
        return hash_origin(slot, step) < version.threshold

    def add_forecast(
        self, version: ScoredVersion, slot: int, generation: int, step: int, forecast: Float32, rows: Float32
    ) -> bool:
        """Hold a forecast that was chosen, or let it join the other versions' from the same origin; whether it was.

        `forecast (targets, horizon, quantiles)` is copied. `rows (rows, targets)` are the server's last rows up to
        `step`, NaN where missing, as many as are known of its window.
        """
        hold = self.pending.get(slot)
        if hold is not None:
            # One that comes when some steps are scored is left out: all versions of a hold have the same points.
            if hold.step != step or hold.generation != generation or hold.done_steps or version.name in hold.forecasts:
                return False
            self.counts.joined += 1
        else:
            hold = self._open(slot, generation, step, rows)
            if hold is None:
                return False
        hold.forecasts[version.name] = np.array(forecast, np.float32)
        hold.losses[version.name] = np.zeros_like(hold.points)
        self.versions[version.name] = self.versions.pop(version.name)
        return True

    def _open(self, slot: int, generation: int, step: int, rows: Float32) -> PendingForecast | None:
        if self._late(step):
            return None  # history that is replayed: its truth would be given up before it comes
        if len(self.pending) >= self.limits.scored_servers:
            self.counts.crowded += 1
            return None
        self._deviations.add_rows(slot, step, rows)
        reported = np.isfinite(rows).sum(0) >= MIN_KNOWN_SHARE * self.contract.context_length
        if not np.isfinite(self._deviations.compute_deviation(slot)[reported]).any():
            return None  # nothing is known of it, or all is flat
        points = np.zeros((len(self.contract.targets), self.shape.ranges))
        hold = self.pending[slot] = PendingForecast(slot, generation, step, reported, points)
        self.counts.opened += 1
        return hold

    def forget(self, slot: int) -> None:
        """Drop what is held and known of a slot that changes hands."""
        if self.pending.pop(slot, None) is not None:
            self.counts.forgotten += 1
        self._deviations.reset(slot)

    # ------------------------------------------------------------ truth in
    def drop_old_scores(self) -> None:
        """Let figures that are older than the sliding window go."""
        period = max(self.now_step, 0) // self.limits.period_steps
        for version in self.versions.values():
            version.scores.sums.advance(period)
        self.comparisons.advance(period)

    def count_settled_steps(self, hold: PendingForecast, newest: int) -> int:
        """How many steps of a held forecast's horizon can be passed, with `newest` its server's newest closed row."""
        wait = 0 if self._late(hold.step) else self.limits.settle_steps
        return min(max(newest - wait - hold.step, 0), self.contract.horizon)

    def is_due(self, hold: PendingForecast, newest: int) -> bool:
        """Whether `score` has anything to do."""
        return self.count_settled_steps(hold, newest) > hold.done_steps or self._late(hold.step)

    def score(self, hold: PendingForecast, newest: int, rows: Float32) -> None:
        """Score what has settled; `rows (rows, targets)` are the server's last rows up to `newest`, NaN where missing.

        A hold whose horizon is past, or that is too old, goes; its missing rows are scored by nobody.
        """
        self.drop_old_scores()
        before, hold.done_steps = hold.done_steps, self.count_settled_steps(hold, newest)
        if hold.done_steps > before:
            last = hold.step + hold.done_steps
            # What is scored belongs to the series too: a leap is measured by a deviation that knows of it.
            self._deviations.add_rows(hold.slot, last, rows[: max(len(rows) - (newest - last), 0)])
            self._score_steps(hold, before, _rows_of(rows, newest, hold.step + before + 1, last).T)
            self._compare_ranges(hold, before)
            self.pending[hold.slot] = self.pending.pop(hold.slot)
        finished = hold.done_steps == self.contract.horizon
        if finished or self._late(hold.step):
            self.counts.finished += finished
            self.counts.expired += not finished
            self._compare(hold, self.shape.ranges, slice(None), self.contract.horizon)
            del self.pending[hold.slot]

    def _late(self, step: int) -> bool:
        patience = self.contract.horizon + self.limits.settle_steps + self.limits.tolerance_steps
        return self.now_step - step > patience

    def _score_steps(self, hold: PendingForecast, first: int, truth: Float64) -> None:
        """Score the steps from `first` on by `truth (targets, steps)`."""
        deviation = np.where(hold.reported, self._deviations.compute_deviation(hold.slot), np.nan)
        known = np.isfinite(truth) & np.isfinite(deviation)[:, None]
        begins = bool(known.any()) and not hold.points.any()
        hold.points += self.shape.sum_by_range(first, known)
        for name, forecast in hold.forecasts.items():
            figures = self.versions[name].scores
            hold.losses[name] += figures.add(first, forecast, np.where(known, truth, np.nan), deviation)
            if begins:
                figures.count_forecast()

    # ------------------------------------------------------------ versions against each other
    def _compare_ranges(self, hold: PendingForecast, before: int) -> None:
        ends = np.cumsum(self.shape.range_lengths).astype(int)
        for index in np.flatnonzero((ends > before) & (ends <= hold.done_steps)).tolist():
            self._compare(hold, index, slice(index, index + 1), int(self.shape.range_lengths[index]))

    def _compare(self, hold: PendingForecast, row: int, ranges: slice, steps: int) -> None:
        """Add one observation for each pair of versions: the mean over the targets that were reported enough."""
        points = hold.points[:, ranges].sum(1)
        enough = points >= max(MIN_KNOWN_SHARE * steps, 1.0)
        if not enough.any():
            return
        means = {name: (loss[:, ranges].sum(1)[enough] / points[enough]).mean() for name, loss in hold.losses.items()}
        names = sorted(means, key=lambda name: self.versions[name].number)
        self.comparisons.add(row, [(name, float(means[name])) for name in names])


def _rows_of(rows: Float32, newest: int, first: int, last: int) -> Float64:
    """The rows of steps `first` to `last`, of `rows` that end at `newest`; NaN where they are too old to be there."""
    found = np.full((last - first + 1, rows.shape[1]), np.nan)
    oldest = newest - len(rows) + 1
    begin = max(first, oldest)
    if begin <= last:
        found[begin - first :] = rows[begin - oldest : last - oldest + 1]
    return found
