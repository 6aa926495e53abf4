"""The report of a backtest, as text and as plain values for JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamd.tools.alerts.backtest import RuleScores
from streamd.tools.alerts.explain import format_hours
from streamd.tools.alerts.methods import METHODS
from streamd.tools.alerts.ranges import RangeScores
from streamd.tools.alerts.scoring import AlertScores
from streamd.tools.engine.text_table import align_columns

HEADER = (
    *("", "incidents", "warned", "caught", "missed", "alerts", "right", "wrong", "precision", "chance", "recall"),
    *("lead p10", "lead", "lead p90", "flaps", "firing", "needless"),
)

LEGEND = """\
warned: incidents with an alert before they began; caught: before or during them; right: alerts with an incident in
time (alerts whose outcome the recording does not show are in neither column); chance: the precision of alerts at any
times; lead: minutes from the alert to the beginning of the incident, the median between the 10th and the 90th
percentile; flaps: alerts within an hour after the previous one ended; firing: share of the time with an alert;
needless: the part of it with no incident in time"""


@dataclass
class ScoreGroup:
    """The scores of one rule, or of several rules together."""

    name: str
    subject: str
    rules: list[str] = field(default_factory=list)
    servers: int = 0
    methods: dict[str, AlertScores] = field(default_factory=lambda: {name: AlertScores() for name in METHODS})
    ranges: RangeScores = field(default_factory=RangeScores)

    def add(self, scores: RuleScores) -> None:
        """Add the scores of a rule."""
        self.rules.append(scores.rule.name)
        self.servers += scores.servers
        self.ranges.add(scores.ranges)
        for name, each in scores.methods.items():
            self.methods[name].add(each)

    def to_dict(self) -> dict[str, Any]:
        """Return the group as plain values."""
        return {
            "name": self.name,
            "rules": self.rules,
            "servers": self.servers,
            "methods": {name: scores.to_dict() for name, scores in self.methods.items()},
            "ranges": self.ranges.to_dict(),
        }


def group_scores(scores: Sequence[RuleScores], label: str | None) -> list[ScoreGroup]:
    """Return the scores by rule, or by the value of a label; rules without the label form a group of their own."""
    groups: dict[str, ScoreGroup] = {}
    for each in scores:
        rule = each.rule
        if label is None:
            side = "at or above" if rule.is_above else "at or below"
            text = f"{rule.target} {side} {rule.threshold:g} within {format_hours(rule.within_seconds)}"
            name, subject = rule.name, f"{text}, quantile {rule.quantile:g}, for {rule.consecutive}"
        else:
            name = rule.labels.get(label, "")
            subject = f"rules with {label} = {name}" if name else f"rules without {label}"
        groups.setdefault(name, ScoreGroup(name, subject)).add(each)
    return list(groups.values())


def format_report(groups: Sequence[ScoreGroup], about: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield (
        f"{about['forecasts']:,} forecasts of {about['servers']} servers by {about['engine']}, "
        f"origins from {about['from']} to {about['to']}, every {about['every']} steps"
    )
    for group in groups:
        yield ""
        rules = f" ({len(group.rules)} rules)" if len(group.rules) > 1 else ""
        yield f"{group.name}{rules}: {group.subject}; {group.servers} servers"
        yield from align_columns([HEADER, *(_format_row(name, each) for name, each in group.methods.items())])
        yield _format_ranges(group.ranges)
    yield ""
    yield LEGEND


def _format_row(name: str, scores: AlertScores) -> tuple[str, ...]:
    found = scores.to_dict()
    counts = [str(found[key]) for key in ("incidents", "warned", "caught", "missed", "alerts", "right", "wrong")]
    leads = [_format_minutes(found[f"lead_seconds_{level}"]) for level in ("p10", "p50", "p90")]
    shares = [_format_share(found[key]) for key in ("share_firing", "share_firing_needlessly")]
    return (
        name,
        *counts,
        _format_share(found["precision"]),
        _format_share(found["chance"]),
        _format_share(found["recall"]),
        *leads,
        str(found["flaps"]),
        *shares,
    )


def _format_ranges(ranges: RangeScores) -> str:
    total = ranges.inside + ranges.before + ranges.after
    if not total:
        return "ranges of the forecast's alerts: no incident to compare them with"
    return (
        f"ranges of the forecast's alerts: the incident began inside of {ranges.inside} of {total}, "
        f"before {ranges.before} and after {ranges.after}; {ranges.has_end} had a latest time"
    )


def _format_share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _format_minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.0f}"
