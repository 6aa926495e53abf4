"""Live accuracy as `/v1/status` and `/metrics` show it; what is not known yet is null here and absent there."""

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
def accuracy_report(scorer: ForecastScorer, training: Training) -> dict[str, Any]:
    """Return the figures of every version, and of every two that forecast the same servers from the same origins."""
    limits = scorer.limits
    return {
        "scored_servers": limits.scored_servers,
        "held": len(scorer.pending),
        "window_steps": limits.period_steps * limits.periods,
        "score_after_steps": limits.settle_steps,
        "sampled": asdict(scorer.counts),
        "versions": {
            name: _version(version.scores, training.get(name), version.is_shadow)
            for name, version in sorted(scorer.versions.items())
        },
        "comparisons": [
            {
                "first": first,
                "second": second,
                **_compared(compared[-1]),
                "by_range": [
                    {"steps": steps, **_compared(each)}
                    for steps, each in zip(range_names(scorer.shape), compared, strict=False)
                ],
            }
            for (first, second), compared in sorted(scorer.comparisons.summarize().items())
        ],
    }


def _version(figures: Scores, training: TrainingScores | None, shadow: bool) -> dict[str, Any]:
    shape = figures.shape
    loss, points, below, inside = figures.compute_loss(), figures.count_points(), figures.compute_below_share(), figures.compute_inside_share()
    quantiles = [f"{level:g}" for level in shape.contract.quantiles]
    return {
        "shadow": shadow,
        "forecasts": figures.forecasts,
        "scored_steps": figures.scored_steps,
        "loss": _rounded(figures.compute_whole_loss()),
        "training_loss": None if training is None else _rounded(training.loss),
        "training_fleets": [] if training is None else list(training.fleets),
        "drift_ratio": _rounded(drift_ratio(figures, training)),
        "by_range": [
            {"steps": steps, "loss": _rounded(each)}
            for steps, each in zip(range_names(shape), figures.compute_range_loss(), strict=True)
        ],
        "targets": {
            target: {
                "loss": _rounded(loss[index]),
                "values": int(points[index]),
                "inside": dict(zip(shape.interval_names, map(_rounded, inside[index]), strict=True)),
                "below": dict(zip(quantiles, map(_rounded, below[index]), strict=True)),
            }
            for index, target in enumerate(shape.contract.targets)
        },
    }


def _compared(comparison: Comparison) -> dict[str, Any]:
    told = {name: _rounded(value) for name, value in asdict(comparison).items()}
    return {**told, "forecasts": comparison.forecasts}


def drift_ratio(figures: Scores, training: TrainingScores | None) -> float:
    """Live loss over the training figure; NaN while either lacks. What it grows by says more than where it stands.

    It stands where it does because this fleet is not the one that the model was judged on.
    """
    return math.nan if training is None else figures.compute_whole_loss() / training.loss


def range_names(shape: ScoreShape) -> list[str]:
    """The ranges of the horizon as steps ahead, the first being 1: `1-12` and so on."""
    ends = shape.range_lengths.cumsum().astype(int).tolist()
    return [f"{begin + 1}-{end}" for begin, end in zip([0, *ends], ends, strict=False)]


def _rounded(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


# ---------------------------------------------------------------- /metrics
def families(scorer: ForecastScorer, training: Training) -> Iterator[Metric]:
    """Yield the Prometheus families; a value that is not known has no sample."""
    shape = scorer.shape
    targets = shape.contract.targets
    versions = {name: version.scores for name, version in sorted(scorer.versions.items())}
    held = GaugeMetricFamily("streamd_live_held", "Servers of which a forecast waits for its truth")
    held.add_metric([], len(scorer.pending))
    yield held
    yield _gauge(
        "pinball",
        "Mean pinball loss over the series' deviation, of the whole horizon, over the sliding window",
        ("version", "target"),
        ((name, target, value) for name, each in versions.items() for target, value in _named(targets, each.compute_loss())),
    )
    yield _gauge(
        "pinball_ahead",
        "The same by steps ahead, mean over the targets",
        ("version", "steps"),
        (
            (name, steps, value)
            for name, each in versions.items()
            for steps, value in _named(range_names(shape), each.compute_range_loss())
        ),
    )
    yield _gauge(
        "coverage",
        "Share of values inside the interval between two quantiles",
        ("version", "target", "interval"),
        (
            (name, target, interval, value)
            for name, each in versions.items()
            for target, row in _named(targets, each.compute_inside_share())
            for interval, value in _named(shape.interval_names, row)
        ),
    )
    yield _gauge(
        "drift_ratio",
        "Live pinball loss over that of the version's training figures",
        ("version",),
        ((name, drift_ratio(each, training.get(name))) for name, each in versions.items()),
    )
    steps = CounterMetricFamily(
        "streamd_live_scored_steps", "Steps of forecasts that were scored for at least one target", labels=["version"]
    )
    for name, figures in versions.items():
        steps.add_metric([name], figures.scored_steps)
    yield steps
    yield from _paired(scorer)


def _paired(scorer: ForecastScorer) -> Iterator[Metric]:
    whole = {pair: compared[-1] for pair, compared in sorted(scorer.comparisons.summarize().items())}
    for name, text, of in (
        ("difference", "The second version's loss less the first's, over the same forecasts", "difference"),
        ("standard_error", "The standard error of that difference, a forecast being one observation", "standard_error"),
        ("forecasts", "Forecasts that both versions made of the same server from the same origin", "forecasts"),
    ):
        values = ((first, second, float(getattr(each, of))) for (first, second), each in whole.items())
        yield _gauge(f"paired_{name}", text, ("first", "second"), values)


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[Any, ...]]) -> Metric:
    family = GaugeMetricFamily(f"streamd_live_{name}", text, labels=labels)
    for *values, value in samples:
        if math.isfinite(value):
            family.add_metric(values, value)
    return family


def _named(names: Iterable[str], values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return zip(names, values, strict=True)
