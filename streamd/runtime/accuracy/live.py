"""The hands of live accuracy: takes forecasts as they are posted, reads the truth from the windows.

On the event loop; nothing here waits, and nothing of it outlives the process: after a restart figures begin anew.
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
from streamd.core.arrays import Float32
from streamd.regular_files import read_regular
from streamd.runtime.accuracy.report import accuracy_report, families
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)


class LiveAccuracy:
    """Scores the forecasts of one state folder's servers, by version.

    Call `forecast_posted` with every forecast, `forget` when a slot changes hands, and `sweep` every second or so.
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
        """Score a version from now on, or change what is known of one.

        `training` is what drift is measured against (none: it stays as it was), `share` the share of the servers that
        the version forecasts; a `shadow` is scored where another version is, so that the two can be compared.
        """
        self.scorer.set_server_count(len(self._state.directory))
        self.scorer.follow(name, share=share, shadow=shadow)
        if training is not None:
            self.training[name] = training
        self._refresh_versions()

    def unfollow(self, name: str) -> None:
        """Let a version go with its figures; one that is not followed is none."""
        self.scorer.unfollow(name)
        self._refresh_versions()

    def restart_scores(self) -> None:
        """Drop all that is held and every figure, and go on to score the same versions."""
        versions = list(self.scorer.versions.values())
        self.scorer = ForecastScorer(self._state.contract, self.limits, self._state.directory.capacity)
        self.scorer.set_server_count(len(self._state.directory))
        for version in versions:
            self.scorer.follow(version.name, share=version.share, shadow=version.is_shadow)
        self._refresh_versions()

    def _refresh_versions(self) -> None:
        followed = self.scorer.versions
        self._versions = {name.encode(): version for name, version in followed.items()}
        self.training = {name: figures for name, figures in self.training.items() if name in followed}

    # ------------------------------------------------------------ forecasts and truth
    def forecast_posted(self, slot: int, step: int, model: bytes, forecast: Float32) -> None:
        """Look at a forecast: `(targets, horizon, quantiles)` from `step` by version `model`; copied if it is held.

        A version that nobody announced is followed as one that serves every server.
        """
        version = self._versions.get(model)
        if version is None:
            self.follow(model.decode())
            version = self._versions[model]
        if self.scorer.offer_forecast(version, slot, step):
            ahead = self._copy_window(slot) - step
            rows = self._window[: max(len(self._window) - ahead, 0), self._columns]
            generation = self._state.directory.generations[slot]
            self.scorer.add_forecast(version, slot, generation, step, forecast, rows)

    def forget(self, slot: int) -> None:
        """Drop a slot that changes hands."""
        self.scorer.forget(slot)

    def sweep(self, most: int = 32) -> int:
        """Score what has settled of up to `most` held forecasts, the longest unscored first; returns of how many."""
        directory, scorer = self._state.directory, self.scorer
        scorer.set_server_count(len(directory))
        scorer.drop_old_scores()
        scored = 0
        for hold in list(scorer.pending.values()):
            if directory.generations[hold.slot] != hold.generation:
                scorer.forget(hold.slot)
            elif scorer.is_due(hold, self._state.windows.get_newest_step(hold.slot)):
                newest = self._copy_window(hold.slot)
                scorer.score(hold, newest, self._window[:, self._columns])
                scored += 1
                if scored == most:
                    break
        return scored

    def _copy_window(self, slot: int) -> int:
        """Copy a server's window; returns the step of its last row."""
        windows = self._state.windows
        windows.gather_window(slot, self._window, self._statuses)
        return windows.get_newest_step(slot)

    # ------------------------------------------------------------ telling
    def status(self) -> dict[str, Any]:
        """What `/v1/status` shows as `accuracy`."""
        self.scorer.drop_old_scores()
        return accuracy_report(self.scorer, self.training)

    def families(self) -> Iterator[Metric]:
        """What `/metrics` shows."""
        self.scorer.drop_old_scores()
        return families(self.scorer, self.training)


def read_training_scores(version: Path) -> TrainingScores | None:
    """Read what a version's folder tells of its training; none where it tells nothing (it can serve without)."""
    path = version / "training_info.json"
    try:
        info = json.loads(read_regular(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        log.warning("training_info_unreadable", path=str(path), error=str(exc))
        return None
    return parse_training_scores(info) if isinstance(info, dict) else None
