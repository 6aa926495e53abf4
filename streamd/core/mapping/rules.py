"""The rules that turn series into features, as they are written in TOML, and their checks. No I/O.

A rule set is a table of rules. A rule computes one feature: `factor * (numerator / denominator) + offset`, for each
group of series with the same values of the labels `by`; the groups then become one number.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from streamd.core.errors import ConfigError
from streamd.core.mapping.series import Kind

Patterns = str | list[str]
"""One glob, or a list of globs of which at least one must match."""


class Term(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The series that a rule adds up: those of a metric whose labels match."""

    metric: Patterns
    where: Mapping[str, Patterns] = {}
    """Each of these labels must match; a missing label counts as empty."""
    where_not: Mapping[str, Patterns] = {}
    """If one of these labels matches, the series is left out."""
    kind: Kind | None = None
    """How the values of a step become one value; `None` stands for the kind of the rule."""
    sign: Literal[1, -1] = 1


class MappingRule(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A formula for one feature. `metric`, `where` and `where_not` are a short form of one term of `numerator`."""

    feature: str = ""
    """The feature; empty if it is the name of the rule."""
    metric: Patterns | None = None
    where: Mapping[str, Patterns] = {}
    where_not: Mapping[str, Patterns] = {}
    kind: Kind = Kind.GAUGE
    numerator: list[Term] = []
    denominator: list[Term] = []
    zero_when: Term | None = None
    """If this term has a series and the numerator has none, the result is 0: some agents send no series for a 0."""
    by: list[str] = []
    over: Literal["sum", "mean", "max"] = "sum"
    factor: float = 1.0
    offset: float = 0.0
    enabled: bool = True

    def list_numerator(self) -> list[Term]:
        """Return the terms of the numerator, also if it was written in the short form."""
        if self.metric is None:
            return self.numerator
        return [Term(metric=self.metric, where=self.where, where_not=self.where_not)]


class RuleSet(msgspec.Struct, frozen=True, kw_only=True):
    """The rules for one agent, by name, and the labels that name the server."""

    name: str
    server: list[str]
    strip_port: bool = False
    """Whether `web-01:9100` is the server `web-01`."""
    drop: list[Term] = []
    """Series that are ignored, whatever the rules say."""
    rules: dict[str, MappingRule] = {}


class _Head(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    server: list[str] = []
    strip_port: bool = False
    drop: list[Term] = []


_HEAD_KEYS = frozenset(_Head.__struct_fields__)


def parse_rule_set(name: str, table: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> RuleSet:
    """Read a rule set from a TOML table; `overrides` replace its keys and rules, or add new ones.

    Raises `ConfigError` naming the rule set, the rule and the key.
    """
    merged = {**table, **(overrides or {})}
    place = f"mapping.{name}"
    head = _convert({key: value for key, value in merged.items() if key in _HEAD_KEYS}, _Head, place)
    if not head.server:
        raise ConfigError(f"{place}.server: is missing, expected the labels that name the server")
    rules = {
        key: _parse_rule(_merge_rule(key, table, overrides or {}), f"{place}.{key}")
        for key in merged
        if key not in _HEAD_KEYS
    }
    return RuleSet(name=name, server=head.server, strip_port=head.strip_port, drop=head.drop, rules=rules)


def _merge_rule(key: str, table: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """Return a rule with its override, which changes only `enabled`, `factor` and `offset`, or replaces the rule."""
    given, former = overrides.get(key), table.get(key)
    if isinstance(given, Mapping) and isinstance(former, Mapping) and set(given) <= {"enabled", "factor", "offset"}:
        return {**former, **given}
    return former if given is None else given


def _convert(table: Any, to: type[Any], place: str) -> Any:
    try:
        return msgspec.convert(table, to)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{place}: {exc}") from exc


def _parse_rule(table: Any, place: str) -> MappingRule:
    rule: MappingRule = _convert(table, MappingRule, place)
    if not (math.isfinite(rule.factor) and math.isfinite(rule.offset)):
        raise ConfigError(f"{place}: factor is {rule.factor} and offset {rule.offset}, expected finite numbers")
    if rule.metric is not None and rule.numerator:
        raise ConfigError(f"{place}: metric and numerator are both given, expected one of them")
    if not rule.list_numerator():
        raise ConfigError(f"{place}: neither metric nor numerator is given, expected one of them in a new rule")
    if rule.metric is None and (rule.where or rule.where_not):
        raise ConfigError(f"{place}: where and where_not belong to metric; give them in each term of numerator")
    for term in (*rule.list_numerator(), *rule.denominator, *([rule.zero_when] if rule.zero_when else [])):
        for patterns in (term.metric, *term.where.values(), *term.where_not.values()):
            if patterns == []:
                raise ConfigError(f"{place}: a list of patterns is empty and matches nothing; leave it out")
    return rule
