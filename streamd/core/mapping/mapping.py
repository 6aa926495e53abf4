"""Compiles the rules, and finds the server and the rules that a series feeds, or the reason to ignore it. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import translate

import msgspec

from streamd.core.mapping.rules import MappingRule, Patterns, RuleSet, Term
from streamd.core.mapping.series import Kind, SourceSeries

LONGEST_CACHED_NAME = 1_024
"""The characters of the longest metric name in the cache; a decoder may ask before it checks the length."""

MAX_CACHED_NAMES = 10_000
"""The number of metric names in the cache; it bounds the memory if a sender invents new names without end."""

NO_RULE = "no_rule"
"""The reason for ignoring a series that no rule names."""

NOT_SELECTED = "not_selected"
"""The reason for ignoring a series whose metric a rule names, but whose labels it does not select."""

NO_SERVER = "no_server"
"""The reason for ignoring a series without a label that names its server."""


class Role(IntEnum):
    """The part of a rule that a series belongs to."""

    NUMERATOR = 0
    DENOMINATOR = 1
    WITNESS = 2
    """The term `zero_when`: its series show that the agent reports, although the numerator has no series."""


class Use(msgspec.Struct, frozen=True, gc=False):
    """The place of a series in one rule."""

    rule: int
    role: Role
    term: int
    """The index of the term in this part of the rule."""
    group: tuple[str, ...]
    """The values of the labels `by`."""


@dataclass(frozen=True, slots=True)
class Match:
    """The result for a series that is used: its server, its kind, and its places in the rules."""

    server: str
    kind: Kind
    uses: tuple[Use, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """The result for a series that is not used.

    `reason` is `NO_RULE`, `NOT_SELECTED`, `NO_SERVER` or `dropped:<rule set>`.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRule:
    """A rule of a set; `column` is the index of its feature."""

    name: str
    column: int
    signs: tuple[int, ...]
    """The signs of the terms of the numerator."""
    divisor_signs: tuple[int, ...]
    """The signs of the terms of the denominator."""
    has_witness: bool
    """Whether the rule has a term `zero_when`."""
    over: str
    factor: float
    offset: float


class _Selector:
    """A term whose globs are compiled."""

    def __init__(self, term: Term) -> None:
        self._where = [(label, _compile(patterns)) for label, patterns in term.where.items()]
        self._where_not = [(label, _compile(patterns)) for label, patterns in term.where_not.items()]

    def selects(self, labels: Mapping[str, str]) -> bool:
        return all(wanted.match(labels.get(label, "")) for label, wanted in self._where) and not any(
            label in labels and unwanted.match(labels[label]) for label, unwanted in self._where_not
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """A term that names a metric: of a rule, or of `drop`, and then `rule` is `None`."""

    owner: RuleSet
    selector: _Selector
    rule: int | None
    role: Role = Role.NUMERATOR
    term: int = 0
    by: tuple[str, ...] = ()
    kind: Kind = Kind.GAUGE


class RuleMapping:
    """The enabled rules of several rule sets for the features of one model, in order of precedence."""

    def __init__(self, rule_sets: Iterable[RuleSet], features: Sequence[str]) -> None:
        self.rules: list[CompiledRule] = []
        self._columns = {feature: column for column, feature in enumerate(features)}
        self._exact: dict[str, list[_Target]] = {}
        self._globs: list[tuple[re.Pattern[str], _Target]] = []
        self._cache: dict[str, tuple[_Target, ...]] = {}
        for rule_set in rule_sets:
            for term in rule_set.drop:
                self._add_target(term.metric, _Target(owner=rule_set, selector=_Selector(term), rule=None))
            for name, rule in rule_set.rules.items():
                if rule.enabled:
                    self._add_rule(rule_set, name, rule)

    def names_metric(self, name: str) -> bool:
        """Whether a rule names this metric."""
        return bool(self.find_targets(name))

    def find_targets(self, name: str) -> tuple[_Target, ...]:
        """Return the terms that name this metric; empty if no rule names it."""
        targets = self._cache.get(name)
        if targets is None:
            found = [*self._exact.get(name, ()), *(target for glob, target in self._globs if glob.match(name))]
            targets = tuple(found)
            if len(self._cache) >= MAX_CACHED_NAMES:
                self._cache.clear()
            if len(name) <= LONGEST_CACHED_NAME:
                self._cache[name] = targets
        return targets

    def match(self, series: SourceSeries) -> Match | Ignored:
        """Return what a series is mapped to, or why it is ignored."""
        targets = self.find_targets(series.name)
        if not targets:
            return Ignored(NO_RULE)
        uses: list[Use] = []
        first: _Target | None = None
        for target in targets:
            if not target.selector.selects(series.labels):
                continue
            if target.rule is None:
                return Ignored(f"dropped:{target.owner.name}")
            first = first or target
            group = tuple(series.labels.get(label, "") for label in target.by)
            uses.append(Use(target.rule, target.role, target.term, group))
        if first is None:
            return Ignored(NOT_SELECTED)
        server = find_server(first.owner, series.labels)
        if server is None:
            return Ignored(NO_SERVER)
        return Match(server, series.kind or first.kind, tuple(uses))

    def _add_rule(self, rule_set: RuleSet, name: str, rule: MappingRule) -> None:
        column = self._columns.get(rule.feature or name)
        if column is None:
            return  # the model does not have this feature
        number, numerator = len(self.rules), rule.list_numerator()
        self.rules.append(
            CompiledRule(
                name=f"{rule_set.name}.{name}",
                column=column,
                signs=tuple(term.sign for term in numerator),
                divisor_signs=tuple(term.sign for term in rule.denominator),
                has_witness=rule.zero_when is not None,
                over=rule.over,
                factor=rule.factor,
                offset=rule.offset,
            )
        )
        for role, place, term in _list_terms(rule):
            self._add_target(
                term.metric,
                _Target(
                    owner=rule_set,
                    selector=_Selector(term),
                    rule=number,
                    role=role,
                    term=place,
                    # A witness has no group: it counts for the whole rule.
                    by=() if role is Role.WITNESS else tuple(rule.by),
                    kind=term.kind or rule.kind,
                ),
            )

    def _add_target(self, metric: Patterns, target: _Target) -> None:
        for name in [metric] if isinstance(metric, str) else metric:
            if any(character in name for character in "*?["):
                self._globs.append((_compile(name), target))
            else:
                self._exact.setdefault(name, []).append(target)


def find_server(rule_set: RuleSet, labels: Mapping[str, str]) -> str | None:
    """Return the server that these labels name, or `None`."""
    for label in rule_set.server:
        name = labels.get(label, "")
        if name := _strip_port(name) if rule_set.strip_port else name:
            return name
    return None


_PORT = re.compile(r":\d{1,5}\Z")


def _strip_port(address: str) -> str:
    """Return an address without its port: `web-01:9100` is `web-01`, `[::1]:9100` is `::1`."""
    stripped = _PORT.sub("", address)
    if stripped.startswith("[") and stripped.endswith("]"):
        return stripped[1:-1]
    # An IPv6 address without brackets has no port, although its last group looks like one.
    return address if ":" in stripped else stripped


def _list_terms(rule: MappingRule) -> Iterator[tuple[Role, int, Term]]:
    yield from ((Role.NUMERATOR, place, term) for place, term in enumerate(rule.list_numerator()))
    yield from ((Role.DENOMINATOR, place, term) for place, term in enumerate(rule.denominator))
    if rule.zero_when is not None:
        yield Role.WITNESS, 0, rule.zero_when


def _compile(patterns: Patterns) -> re.Pattern[str]:
    globs = [patterns] if isinstance(patterns, str) else patterns
    return re.compile("|".join(translate(glob) for glob in globs))
