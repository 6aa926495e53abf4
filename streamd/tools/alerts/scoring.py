"""Judges alerts by the incidents that followed: right, wrong and missed ones, lead times, flaps, time firing.

The same judgement for every way to decide whether to alert. Arrays only; times are step indices of the fleet, and an
origin is the index of the first step that is not known yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np

from streamd.core.alerts.evaluation import Flags
from streamd.tools.alerts.incidents import Incident

LEAD_QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True, slots=True)
class Episode:
    """One alert of one server: fired at the origin `fired`, over at the origin `resolved`."""

    fired: int
    resolved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The bounds by which alerts are judged, in steps."""

    reach_steps: int
    """An alert is right if an incident begins at most this far ahead: `within` and the tolerance."""
    shortest_steps: int
    """Shorter incidents need not be caught; an alert for one is right nevertheless."""
    flap_steps: int
    """An alert that fires again within so many steps after it was resolved is a flap."""
    step_seconds: int


@dataclass(kw_only=True)
class AlertScores:
    """Counts over servers, which add up over rules."""

    incidents: int = 0
    caught: int = 0
    """Incidents with an alert that fired before or during them."""
    warned: int = 0
    """Incidents with an alert that fired before they began."""
    alerts: int = 0
    right: int = 0
    wrong: int = 0
    flaps: int = 0
    judged_steps: int = 0
    """Origins of all servers that were judged."""
    firing_steps: int = 0
    needless_steps: int = 0
    """Origins at which an alert was firing, and neither was there an incident nor did one begin within the reach."""
    near_steps: int = 0
    """Origins that were judged and at which an alert would have been right."""
    decided_steps: int = 0
    """Origins that were judged and at which the recording shows whether an alert would have been right."""
    leads_seconds: list[float] = field(default_factory=list)
    """One for each incident that was caught; negative if the alert fired after it began."""

    @property
    def undecided(self) -> int:
        """Alerts for which the recording lacks what followed."""
        return self.alerts - self.right - self.wrong

    @property
    def precision(self) -> float | None:
        """The share of the decided alerts that were right; `None` without any."""
        return _divide(self.right, self.right + self.wrong)

    @property
    def chance(self) -> float | None:
        """The precision that alerts at any times would have; `None` without any such time."""
        return _divide(self.near_steps, self.decided_steps)

    @property
    def recall(self) -> float | None:
        """The share of the incidents that were caught; `None` without any."""
        return _divide(self.caught, self.incidents)

    @property
    def warned_share(self) -> float | None:
        """The share of the incidents with an alert before they began; `None` without any."""
        return _divide(self.warned, self.incidents)

    def add(self, other: Self) -> None:
        """Add the counts of another rule or server."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, Any]:
        """Return counts, shares and the quantiles of the lead time as plain values."""
        leads = np.quantile(self.leads_seconds, LEAD_QUANTILES) if self.leads_seconds else [None] * len(LEAD_QUANTILES)
        names = [f"lead_seconds_p{round(100 * level)}" for level in LEAD_QUANTILES]
        return {
            "incidents": self.incidents,
            "caught": self.caught,
            "warned": self.warned,
            "missed": self.incidents - self.caught,
            "alerts": self.alerts,
            "right": self.right,
            "wrong": self.wrong,
            "undecided": self.undecided,
            "flaps": self.flaps,
            "precision": self.precision,
            "chance": self.chance,
            "recall": self.recall,
            "warned_share": self.warned_share,
            "share_firing": _divide(self.firing_steps, self.judged_steps),
            "share_firing_needlessly": _divide(self.needless_steps, self.judged_steps),
            **{name: None if lead is None else float(lead) for name, lead in zip(names, leads, strict=True)},
        }


def find_episodes(firing: Flags, first_origin: int) -> list[Episode]:
    """Return the alerts of one server from its state at each origin, `(origins,) bool`, one step apart.

    An alert that still fires at the end counts as resolved after the last origin.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], firing, [False]]).astype(np.int8))) + first_origin
    return [Episode(int(fired), int(over)) for fired, over in zip(edges[::2], edges[1::2], strict=True)]


def score_server(
    firing: Flags,
    judged: Flags,
    known: Flags,
    incidents: Sequence[Incident],
    *,
    first_origin: int,
    judgement: Judgement,
) -> AlertScores:
    """Judge the alerts of one rule for one server.

    `firing` and `judged` are `(origins,) bool`: whether an alert was firing from that origin on, and whether there
    was a forecast. `known` is `(steps,) bool` over the whole fleet: whether the step has a value. An incident counts
    if it is long enough, has a known start between the first and the last origin, and the server was judged at least
    once within the reach before. An alert is right if an incident is going on when it fires or begins within the
    reach; if none does, but the recording ends before or lacks more than half of those steps, it is undecided.
    """
    episodes = find_episodes(firing, first_origin)
    near, decided = _find_reach(len(firing), first_origin, incidents, known, judgement.reach_steps)
    fired = np.array([each.fired - first_origin for each in episodes], np.intp)
    scores = AlertScores(
        alerts=len(episodes),
        right=int(near[fired].sum()),
        wrong=int((decided & ~near)[fired].sum()),
        flaps=sum(b.fired - a.resolved <= judgement.flap_steps for a, b in pairwise(episodes)),
        judged_steps=int(judged.sum()),
        firing_steps=int(firing.sum()),
        needless_steps=int((firing & decided & ~near).sum()),
        near_steps=int((judged & near).sum()),
        decided_steps=int((judged & decided).sum()),
    )
    former_end = 0
    for incident in incidents:
        if _is_counted(incident, judged, first_origin, judgement):
            scores.incidents += 1
            _add_incident(scores, incident, former_end, episodes, judgement)
        former_end = incident.end
    return scores


def _find_reach(
    origins: int, first_origin: int, incidents: Sequence[Incident], known: Flags, reach: int
) -> tuple[Flags, Flags]:
    """Return for each origin whether an alert that fires there is right, and whether it is decided at all."""
    at = np.arange(first_origin, first_origin + origins)
    near = np.zeros(origins, np.bool_)
    for incident in incidents:
        near |= (incident.begin <= at + reach) & (incident.end >= at)
    totals = np.concatenate([[0], np.cumsum(known)])
    stops = np.minimum(at + reach, len(known))
    return near, near | ((stops - at == reach) & (2 * (totals[stops] - totals[at]) >= reach))


def _is_counted(incident: Incident, judged: Flags, first_origin: int, judgement: Judgement) -> bool:
    at = incident.begin - first_origin
    if not incident.has_known_begin or not 0 <= at < len(judged):
        return False
    is_long = incident.end - incident.begin >= judgement.shortest_steps
    return is_long and bool(judged[max(at - judgement.reach_steps, 0) : at + 1].any())


def _add_incident(
    scores: AlertScores, incident: Incident, former_end: int, episodes: Sequence[Episode], judgement: Judgement
) -> None:
    """Count an incident as caught, with its lead, if an alert was firing when it began or fired while it went on.

    The lead counts at most from the reach before it, and from the end of the former incident.
    """
    found = [each.fired for each in episodes if each.fired <= incident.end and each.resolved > incident.begin]
    if not found:
        return
    lead = incident.begin - max(found[0], former_end, incident.begin - judgement.reach_steps)
    scores.caught += 1
    scores.warned += lead > 0
    scores.leads_seconds.append(float(lead * judgement.step_seconds))


def _divide(part: int, whole: int) -> float | None:
    return part / whole if whole else None
