"""Scores live forecasts: takes each forecast that is posted, and reads the later truth from the windows.

Runs on the event loop; nothing here waits. The scores are lost with the process. The arithmetic is in `core/accuracy`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from prometheus_client.core import Metric

from streamd.core.accuracy.pending import AccuracyLimits, ScoredVersion
from streamd.core.accuracy.scorer import ForecastScorer
from streamd.core.accuracy.scores import TrainingScores, parse_training_scores
from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.state.window_copies import copy_window
from streamd.regular_files import read_regular
from streamd.runtime.accuracy.report import describe_accuracy, make_metric_families
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)


class LiveAccuracy:
    """Scores the forecasts of one state folder's servers, by version.

    Call `forecasts_posted` with each batch, `forget` when a slot gets another server, and `sweep` about every second.
    """

    def __init__(self, state: State, limits: AccuracyLimits) -> None:
        contract = state.contract
        self.limits = limits
        self.scorer = ForecastScorer(contract, limits, state.directory.capacity)
        self.training: dict[str, TrainingScores] = {}
        self._state = state
        self._versions: dict[bytes, ScoredVersion] = {}
        self._columns = [contract.feature_index[target] for target in contract.targets]
        self._window = np.empty(contract.input_shapes["encoder_cont"], np.float32)
        self._statuses = np.empty(contract.context_length, np.int32)

    # ------------------------------------------------------------ versions
    def follow(
        self, name: str, *, training: TrainingScores | None = None, share: float = 1.0, shadow: bool = False
    ) -> None:
        """Score a version from now on, or change the settings of one that is scored.

        Drift is measured against `training`; `None` leaves it unchanged. `share` is the share of the servers that the
        version forecasts. The forecasts of a `shadow` are sampled where another version's are, to compare the two.
        """
        self.scorer.set_server_count(len(self._state.directory))
        self.scorer.follow(name, share=share, shadow=shadow)
        if training is not None:
            self.training[name] = training
        self._refresh_versions()

    def unfollow(self, name: str) -> None:
        """Stop scoring a version and drop its scores; a no-op if it is not followed."""
        self.scorer.unfollow(name)
        self._refresh_versions()

    def restart_scores(self) -> None:
        """Drop all pending forecasts and scores, and continue to score the same versions."""
        versions = list(self.scorer.versions.values())
        self.scorer = ForecastScorer(self._state.contract, self.limits, self._state.directory.capacity)
        self.scorer.set_server_count(len(self._state.directory))
        for version in versions:
            self.scorer.follow(version.name, share=version.share, shadow=version.is_shadow)
        self._refresh_versions()

    def _refresh_versions(self) -> None:
        followed = self.scorer.versions
        self._versions = {name.encode(): version for name, version in followed.items()}
        self.training = {name: scores for name, scores in self.training.items() if name in followed}

    # ------------------------------------------------------------ forecasts and truth
    def forecasts_posted(self, slots: Slots, steps: Numbers, model: bytes, forecasts: Float32) -> None:
        """Offer the forecasts of a batch, `(n, targets, horizon, quantiles)`, from `steps`; copied if sampled.

        `model` made them. A version that is not followed is followed from now on, as one that serves every server.
        """
        version = self._versions.get(model)
        if version is None:
            self.follow(model.decode())
            version = self._versions[model]
        for place in self.scorer.offer_forecasts(version, slots, steps):
            self._add_forecast(version, int(slots[place]), int(steps[place]), forecasts[place])

    def _add_forecast(self, version: ScoredVersion, slot: int, step: int, forecast: Float32) -> None:
        newest = self._copy_window(slot)
        if newest is None:
            return
        ahead = newest - step
        rows = self._window[: max(len(self._window) - ahead, 0), self._columns]
        generation = self._state.directory.get_generation(slot)
        self.scorer.add_forecast(version, slot, generation=generation, step=step, forecast=forecast, rows=rows)

    def forget(self, slot: int) -> None:
        """Drop a slot that gets another server."""
        self.scorer.forget(slot)

    def sweep(self, most: int = 32) -> int:
        """Score the settled steps of up to `most` pending forecasts, the least recently scored first.

        Returns the number of forecasts that were scored.
        """
        directory, scorer = self._state.directory, self.scorer
        scorer.set_server_count(len(directory))
        scorer.drop_old_scores()
        scored = 0
        for pending in list(scorer.pending.values()):
            if directory.get_generation(pending.slot) != pending.generation:
                scorer.forget(pending.slot)
            elif scorer.is_due(pending, self._state.windows.get_newest_step(pending.slot)):
                newest = self._copy_window(pending.slot)
                if newest is None:
                    continue
                scorer.score(pending, newest, self._window[:, self._columns])
                scored += 1
                if scored == most:
                    break
        return scored

    def _copy_window(self, slot: int) -> int | None:
        """Copy a server's window; returns the step of its last row, `None` while another process changes it."""
        copied = copy_window(self._state.windows, slot, self._window, self._statuses)
        return None if copied is None else copied.newest

    # ------------------------------------------------------------ reports
    def describe(self) -> dict[str, Any]:
        """Return the entry `accuracy` of `/v1/status`."""
        self.scorer.drop_old_scores()
        return describe_accuracy(self.scorer, self.training)

    def collect_metrics(self) -> Iterator[Metric]:
        """Return the metric families of `/metrics`."""
        self.scorer.drop_old_scores()
        return make_metric_families(self.scorer, self.training)


def read_training_scores(version: Path) -> TrainingScores | None:
    """Read the scores of a version's training from its folder; `None` if it has none, which it can serve without."""
    path = version / "training_info.json"
    try:
        info = json.loads(read_regular(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        log.warning("training_info_unreadable", path=str(path), error=str(exc))
        return None
    return parse_training_scores(info) if isinstance(info, dict) else None
