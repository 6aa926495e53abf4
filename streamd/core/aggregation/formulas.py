"""Computes the features of a server from the values of its series, by the rules that these series feed. Pure."""

import math
from collections.abc import Iterable, Sequence

import msgspec

from streamd.core.mapping.mapping import CompiledRule, Role, Use
from streamd.core.values import is_value


class _Group(msgspec.Struct, gc=False):
    """The series of one group of a rule: the indices of the series of each term."""

    numerator: tuple[list[int], ...]
    denominator: tuple[list[int], ...]


class ServerFormulas:
    """The rules that the series of one server feed, with the series of each term."""

    def __init__(self, rules: Sequence[CompiledRule]) -> None:
        self._rules = rules
        self._groups: dict[int, dict[tuple[str, ...], _Group]] = {}
        self._witnesses: dict[int, list[int]] = {}
        self._ordered: list[int] | None = None  # the rules in use, by precedence

    def add_series(self, index: int, uses: Iterable[Use]) -> None:
        """Add a series by its index and its uses."""
        for use in uses:
            groups = self._groups.setdefault(use.rule, {})
            if use.role is Role.WITNESS:
                self._witnesses.setdefault(use.rule, []).append(index)
                continue
            group = groups.get(use.group)
            if group is None:
                rule = self._rules[use.rule]
                group = groups[use.group] = _Group(tuple([] for _ in rule.signs), tuple([] for _ in rule.divisor_signs))
            part = group.numerator if use.role is Role.NUMERATOR else group.denominator
            part[use.term].append(index)
        self._ordered = None

    def compute_features(self, values: Sequence[float]) -> dict[int, tuple[float, int]]:
        """Return the features that have a value, by column: the value and the index of the rule that gave it.

        `values` are those of the series, by index; NaN where a series has none.
        """
        if self._ordered is None:
            self._ordered = sorted(self._groups)
        features: dict[int, tuple[float, int]] = {}
        for number in self._ordered:
            rule = self._rules[number]
            if rule.column in features:
                continue
            value = self._compute_rule(number, rule, values)
            if value is not None and is_value(value):
                features[rule.column] = value, number
        return features

    def _compute_rule(self, number: int, rule: CompiledRule, values: Sequence[float]) -> float | None:
        results = (_compute_group(group, rule, values) for group in self._groups[number].values())
        found = [result for result in results if result is not None]
        if found:
            return _combine(found, rule.over)
        if any(not math.isnan(values[index]) for index in self._witnesses.get(number, ())):
            return 0.0
        return None


def _compute_group(group: _Group, rule: CompiledRule, values: Sequence[float]) -> float | None:
    above = _sum_terms(group.numerator, rule.signs, values)
    if above is None:
        return None
    if not group.denominator:
        return rule.factor * above + rule.offset
    below = _sum_terms(group.denominator, rule.divisor_signs, values)
    if not below:  # a term is missing, or the divisor is 0
        return None
    return rule.factor * (above / below) + rule.offset


def _sum_terms(terms: Sequence[Sequence[int]], signs: Sequence[int], values: Sequence[float]) -> float | None:
    """Return the sum of the terms, each the sum of its series; `None` if one of them has no value at all."""
    total = 0.0
    for indices, sign in zip(terms, signs, strict=True):
        present = [value for index in indices if not math.isnan(value := values[index])]
        if not present:
            return None
        total += sign * sum(present)
    return total


def _combine(values: Sequence[float], over: str) -> float:
    if over == "max":
        return max(values)
    return sum(values) / len(values) if over == "mean" else sum(values)
