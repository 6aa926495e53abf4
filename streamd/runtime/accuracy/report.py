"""Live accuracy as `/v1/status` and `/metrics` show it.

A value that is not known yet is null in the status and absent in the metrics. Reads the scorer, and changes nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from streamd.core.accuracy.comparison import Comparison
from streamd.core.accuracy.scorer import ForecastScorer
from streamd.core.accuracy.scores import Scores, ScoreShape, TrainingScores

Training = Mapping[str, TrainingScores]


# ---------------------------------------------------------------- /v1/status
def describe_accuracy(scorer: ForecastScorer, training: Training) -> dict[str, Any]:
    """Return the scores of every version, and of every two that forecast the same servers from the same origins."""
    limits = scorer.limits
    return {
        "scored_servers": limits.scored_servers,
        "held": len(scorer.pending),
        "window_steps": limits.period_steps * limits.periods,
        "score_after_steps": limits.settle_steps,
        "sampled": asdict(scorer.counts),
        "versions": {
            name: _describe_version(version.scores, training.get(name), version.is_shadow)
            for name, version in sorted(scorer.versions.items())
        },
        "comparisons": [
            {
                "first": first,
                "second": second,
                **_describe_comparison(compared[-1]),
                "by_range": [
                    {"steps": steps, **_describe_comparison(each)}
                    for steps, each in zip(format_range_names(scorer.shape), compared, strict=False)
                ],
            }
            for (first, second), compared in sorted(scorer.comparisons.summarize().items())
        ],
    }


def _describe_version(scores: Scores, training: TrainingScores | None, shadow: bool) -> dict[str, Any]:
    shape = scores.shape
    loss, points, below, inside = (
        scores.compute_loss(),
        scores.count_points(),
        scores.compute_below_share(),
        scores.compute_inside_share(),
    )
    quantiles = [f"{level:g}" for level in shape.contract.quantiles]
    return {
        "shadow": shadow,
        "forecasts": scores.forecasts,
        "scored_steps": scores.scored_steps,
        "loss": _round_known(scores.compute_whole_loss()),
        "training_loss": None if training is None else _round_known(training.loss),
        "training_fleets": [] if training is None else list(training.fleets),
        "drift_ratio": _round_known(compute_drift_ratio(scores, training)),
        "by_range": [
            {"steps": steps, "loss": _round_known(each)}
            for steps, each in zip(format_range_names(shape), scores.compute_range_loss(), strict=True)
        ],
        "targets": {
            target: {
                "loss": _round_known(loss[index]),
                "values": int(points[index]),
                "inside": dict(zip(shape.interval_names, map(_round_known, inside[index]), strict=True)),
                "below": dict(zip(quantiles, map(_round_known, below[index]), strict=True)),
            }
            for index, target in enumerate(shape.contract.targets)
        },
    }


def _describe_comparison(comparison: Comparison) -> dict[str, Any]:
    values = {name: _round_known(value) for name, value in asdict(comparison).items()}
    return {**values, "forecasts": comparison.forecasts}


def compute_drift_ratio(scores: Scores, training: TrainingScores | None) -> float:
    """Return the live loss divided by the training loss; NaN while one of them is unknown.

    Its growth means more than its level: this fleet is not the one that the training loss was measured on.
    """
    return math.nan if training is None else scores.compute_whole_loss() / training.loss


def format_range_names(shape: ScoreShape) -> list[str]:
    """Return the names of the ranges of the horizon in steps ahead, from 1 on: `1-12` and so on."""
    ends = shape.range_lengths.cumsum().astype(int).tolist()
    return [f"{begin + 1}-{end}" for begin, end in zip([0, *ends], ends, strict=False)]


def _round_known(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


# ---------------------------------------------------------------- /metrics
def make_metric_families(scorer: ForecastScorer, training: Training) -> Iterator[Metric]:
    """Yield the Prometheus families; an unknown value has no sample."""
    shape = scorer.shape
    targets = shape.contract.targets
    versions = {name: version.scores for name, version in sorted(scorer.versions.items())}
    held = GaugeMetricFamily("streamd_live_held", "Servers of which a forecast waits for its truth")
    held.add_metric([], len(scorer.pending))
    yield held
    yield _make_gauge(
        "pinball",
        "Mean pinball loss over the series' deviation, of the whole horizon, over the sliding window",
        ("version", "target"),
        (
            (name, target, value)
            for name, each in versions.items()
            for target, value in _zip_names(targets, each.compute_loss())
        ),
    )
    yield _make_gauge(
        "pinball_ahead",
        "The same by steps ahead, mean over the targets",
        ("version", "steps"),
        (
            (name, steps, value)
            for name, each in versions.items()
            for steps, value in _zip_names(format_range_names(shape), each.compute_range_loss())
        ),
    )
    yield _make_gauge(
        "coverage",
        "Share of values inside the interval between two quantiles",
        ("version", "target", "interval"),
        (
            (name, target, interval, value)
            for name, each in versions.items()
            for target, row in _zip_names(targets, each.compute_inside_share())
            for interval, value in _zip_names(shape.interval_names, row)
        ),
    )
    yield _make_gauge(
        "drift_ratio",
        "Live pinball loss over that of the version's training figures",
        ("version",),
        ((name, compute_drift_ratio(each, training.get(name))) for name, each in versions.items()),
    )
    steps = CounterMetricFamily(
        "streamd_live_scored_steps", "Steps of forecasts that were scored for at least one target", labels=["version"]
    )
    for name, scores in versions.items():
        steps.add_metric([name], scores.scored_steps)
    yield steps
    yield from _make_paired_families(scorer)


def _make_paired_families(scorer: ForecastScorer) -> Iterator[Metric]:
    whole = {pair: compared[-1] for pair, compared in sorted(scorer.comparisons.summarize().items())}
    for name, text, of in (
        ("difference", "The second version's loss less the first's, over the same forecasts", "difference"),
        ("standard_error", "The standard error of that difference, a forecast being one observation", "standard_error"),
        ("forecasts", "Forecasts that both versions made of the same server from the same origin", "forecasts"),
    ):
        values = ((first, second, float(getattr(each, of))) for (first, second), each in whole.items())
        yield _make_gauge(f"paired_{name}", text, ("first", "second"), values)


def _make_gauge(name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[Any, ...]]) -> Metric:
    family = GaugeMetricFamily(f"streamd_live_{name}", text, labels=labels)
    for *values, value in samples:
        if math.isfinite(value):
            family.add_metric(values, value)
    return family


def _zip_names(names: Iterable[str], values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return zip(names, values, strict=True)
