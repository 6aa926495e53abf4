"""Formats the result of a check, as text for a terminal and as an object for JSON. No I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from streamd.core.mapping.mapping import NO_RULE, NO_SERVER, NOT_SELECTED, Match, Role, RuleMapping
from streamd.core.mapping.samples import STATUS_FEATURE
from streamd.core.mapping.series import SourceSeries
from streamd.tools.mapping.checked import CheckedSeries, CheckedServer, FeatureValue, MappingSink
from streamd.tools.mapping.reasons import ReasonFinder

SHOWN_LINES = 200
"""The largest number of lines in the table of series, unless all are requested."""

SHOWN_SERVERS = 5
"""The number of servers whose features are shown, unless all are requested."""

SHOWN_NAMES = 8
"""The number of ignored series that are shown for each reason."""

SHOWN_LENGTH = 200
"""The number of characters of a series that are shown."""

_REASONS = {
    NO_RULE: "no rule names their metric",
    NOT_SELECTED: "a rule names their metric, but their labels are not those that it wants",
    NO_SERVER: "they have no label that names a server",
}


@dataclass(frozen=True, kw_only=True)
class CheckedFile:
    """A file that was read."""

    file: str
    format_name: str
    body_bytes: int


@dataclass(frozen=True)
class SeriesUse:
    """A feature that a series feeds, the rule, and the parts of the rule."""

    feature: str
    rule: str
    parts: tuple[str, ...]


_PARTS = {Role.NUMERATOR: "numerator", Role.DENOMINATOR: "denominator", Role.WITNESS: "zero_when"}


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The results of a check."""

    files: Sequence[CheckedFile]
    sink: MappingSink
    mapping: RuleMapping
    units: Mapping[str, str]
    """The unit of each feature, in the order of the columns."""
    server_labels: Mapping[str, Sequence[str]]
    """The labels that name the server, by rule set."""
    reasons: ReasonFinder

    # ------------------------------------------------------------ contents
    @cached_property
    def common_labels(self) -> dict[str, str]:
        """The labels that all series have with the same value, if there are several series."""
        several = [series.source.labels for series in self.sink.series]
        if len(several) < 2:
            return {}
        common = set(several[0].items()).intersection(*(labels.items() for labels in several[1:]))
        return {name: value for name, value in several[0].items() if (name, value) in common}

    def _describe(self, series: CheckedSeries) -> str:
        return describe_series(series.source, self.common_labels)

    def list_uses(self, series: CheckedSeries) -> list[SeriesUse]:
        """Return the features that a series feeds, in the order of the columns."""
        if not isinstance(series.result, Match):
            return []
        features, roles = list(self.units), dict[int, list[Role]]()
        for use in series.result.uses:
            roles.setdefault(use.rule, []).append(use.role)
        rules = sorted(roles, key=lambda number: (self.mapping.rules[number].column, number))
        return [
            SeriesUse(
                feature=features[self.mapping.rules[number].column],
                rule=self.mapping.rules[number].name,
                parts=tuple(dict.fromkeys(_PARTS[role] for role in sorted(roles[number]))),
            )
            for number in rules
        ]

    def list_features(self, server: CheckedServer) -> Iterator[tuple[str, FeatureValue | str]]:
        """Yield each feature with its newest value, or with the reason why it has none."""
        newest = self.sink.find_newest_values(server)
        for column, feature in enumerate(self.units):
            if feature != STATUS_FEATURE or any(rule.column == column for rule in self.mapping.rules):
                yield feature, newest.get(feature) or self.reasons.find_reason(server, column)

    # ------------------------------------------------------------ as JSON
    def build_object(self) -> dict[str, Any]:
        """Return the report as it is written with `--json`."""
        return {
            "files": [
                {"file": each.file, "protocol": each.format_name, "bytes": each.body_bytes} for each in self.files
            ],
            "series": [self._build_series(series) for series in self.sink.series if isinstance(series.result, Match)],
            "servers": {
                server.name: {feature: _build_value(found, self.units[feature]) for feature, found in features}
                for server, features in ((each, self.list_features(each)) for each in self.sink.servers.values())
            },
            "ignored": [
                {
                    "reason": reason,
                    "series": len(many),
                    "points": sum(series.points for series in many),
                    "names": _list_names(reason, many),
                }
                for reason, many in self.sink.list_ignored()
            ],
            "rejected": {"points": dict(self.sink.rejected), "errors": [str(error) for error in self.sink.errors]},
            "skipped": dict(self.sink.skipped),
        }

    def _build_series(self, series: CheckedSeries) -> dict[str, Any]:
        assert isinstance(series.result, Match)
        return {
            "name": series.source.name,
            "labels": dict(series.source.labels),
            "server": series.result.server,
            "kind": str(series.result.kind),
            "points": series.points,
            "feeds": [
                {"feature": use.feature, "unit": self.units[use.feature], "rule": use.rule, "parts": list(use.parts)}
                for use in self.list_uses(series)
            ],
        }

    # ------------------------------------------------------------ as text
    def format_lines(self, *, is_all: bool) -> Iterator[str]:
        """Yield the lines of the report; long tables are cut unless `is_all`."""
        for each in self.files:
            yield f"{each.file}: {each.format_name}, {each.body_bytes:,} bytes"
        if self.common_labels:
            labels = ", ".join(f'{name}="{value}"' for name, value in self.common_labels.items())
            yield f"labels that all series have, left out below: {make_printable(labels)}"
        yield from self._format_series(None if is_all else SHOWN_LINES)
        servers = list(self.sink.servers.values())
        shown = servers if is_all else servers[:SHOWN_SERVERS]
        for server in shown:
            yield from self._format_server(server)
        if len(servers) > len(shown):
            yield f"\nand {len(servers) - len(shown):,} more servers (--all)"
        yield from self._format_ignored()

    def _format_series(self, limit: int | None) -> Iterator[str]:
        used = [series for series in self.sink.series if isinstance(series.result, Match)]
        yield f"\nseries that are used: {len(used):,} of {len(self.sink.series):,}"
        rows = [("server", "feature", "unit", "kind", "rule", "series")]
        for server in self.sink.servers.values():
            columns = list(self.units)
            uses = [(use, series) for series in server.series for use in self.list_uses(series)]
            for use, series in sorted(uses, key=lambda pair: columns.index(pair[0].feature)):
                kind = str(series.result.kind) if isinstance(series.result, Match) else ""
                parts = "" if "numerator" in use.parts else f" ({', '.join(use.parts)})"
                unit, name = self.units[use.feature], make_printable(server.name)
                rows.append((name, use.feature, unit, kind, use.rule + parts, self._describe(series)))
            if limit is not None and len(rows) > limit + 1:
                break
        if used:
            yield from align_left(rows[: None if limit is None else limit + 1])
        if limit is not None and len(rows) > limit + 1:
            yield "  and more (--all)"

    def _format_server(self, server: CheckedServer) -> Iterator[str]:
        yield f"\nfeatures of {make_printable(server.name)}: the newest value of each"
        rows = [("feature", "value", "unit", "step (UTC)", "rule, or why there is no value")]
        for feature, found in self.list_features(server):
            if isinstance(found, str):
                rows.append((feature, "missing", "", "", make_printable(found)))
            else:
                step = _format_time(found.step_start)
                rows.append((feature, f"{found.value:.6g}", self.units[feature], step, found.rule))
        yield from align_left(rows)

    def _format_ignored(self) -> Iterator[str]:
        for reason, many in self.sink.list_ignored():
            points = sum(series.points for series in many)
            yield f"\nignored: {len(many):,} series with {points:,} points ({reason}): {self._explain(reason)}"
            names = list(dict.fromkeys(s.source.name if reason == NO_RULE else self._describe(s) for s in many))
            yield from (f"  {make_printable(name)}" for name in names[:SHOWN_NAMES])
            if len(names) > SHOWN_NAMES:
                yield f"  and {len(names) - SHOWN_NAMES:,} more"
        if self.sink.skipped:
            counts = ", ".join(f"{count:,} of {reason}" for reason, count in sorted(self.sink.skipped.items()))
            yield f"\nskipped, since they are no measurement: {counts}"
        if self.sink.rejected:
            yield f"\nrejected: {self.sink.rejected.total():,} points"
            yield from (f"  {make_printable(str(error))}" for error in self.sink.errors)

    def _explain(self, reason: str) -> str:
        dropper = reason.removeprefix("dropped:")
        if dropper != reason:
            return f"mapping.{dropper}.drop selects them"
        if reason != NO_SERVER:
            return _REASONS[reason]
        labels = "; ".join(f"{name}: {', '.join(labels)}" for name, labels in self.server_labels.items())
        return f"{_REASONS[reason]} ({labels})"


def describe_series(series: SourceSeries, hidden: Iterable[str] = ()) -> str:
    """Return a series as text: its name, and its labels as far as there is space."""
    labels = ",".join(f'{name}="{value}"' for name, value in series.labels.items() if name not in hidden)
    text = make_printable(f"{series.name}{{{labels}}}" if labels else series.name)
    return text if len(text) <= SHOWN_LENGTH else f"{text[: SHOWN_LENGTH - 3]}..."


def make_printable(text: str) -> str:
    """Return a text with control characters escaped, because a captured name may contain some."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def align_left(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield each row as an indented line; each column has one width, except the last one."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        yield f"  {'  '.join([*cells, row[-1]])}".rstrip()


def _list_names(reason: str, many: Sequence[CheckedSeries]) -> list[str]:
    """Return the names of ignored series, each once; with labels if the labels are the reason."""
    if reason == NO_RULE:
        return list(dict.fromkeys(series.source.name for series in many))
    return [describe_series(series.source) for series in many]


def _build_value(found: FeatureValue | str, unit: str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"missing": found}
    return {"value": found.value, "unit": unit, "rule": found.rule, "step_start": found.step_start}


def _format_time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(seconds)
