"""Finds out why a feature of a server has no value: for each of its rules, what the capture lacks. No I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from streamd.core.mapping.mapping import Match, Role, RuleMapping, Use
from streamd.core.mapping.rules import MappingRule, Patterns, RuleSet, Term
from streamd.core.mapping.series import Kind
from streamd.tools.mapping.checked import CheckedSeries, CheckedServer

NO_RULE_FOR_FEATURE = "no rule gives it"


@dataclass(frozen=True)
class _TermSeries:
    """A term of a rule, and the series of a server that it selects."""

    term: Term
    series: list[CheckedSeries]


class ReasonFinder:
    """The rules by name, as they are written, which show what a rule needs."""

    def __init__(self, rule_sets: Sequence[RuleSet], mapping: RuleMapping) -> None:
        self._rules = {f"{each.name}.{name}": rule for each in rule_sets for name, rule in each.rules.items()}
        self._mapping = mapping

    def find_reason(self, server: CheckedServer, column: int) -> str:
        """Return why the feature of this column has no value."""
        numbers = [number for number, rule in enumerate(self._mapping.rules) if rule.column == column]
        if not numbers:
            return NO_RULE_FOR_FEATURE
        series = _group_by_rule(server)
        # Rules for agents that did not send the capture are left out.
        agents = {self._name(number).partition(".")[0] for number in series}
        own = [number for number in numbers if self._name(number).partition(".")[0] in agents]
        if not own:
            return f"no rule of {', '.join(sorted(agents))} gives it"
        fed = [number for number in own if _has_numerator(series.get(number, []))]
        explained = (f"{self._name(each)}: {self._explain_rule(each, series.get(each, []))}" for each in fed or own)
        return "; ".join(explained)

    def _name(self, number: int) -> str:
        return self._mapping.rules[number].name

    def _explain_rule(self, number: int, fed: Sequence[tuple[Use, CheckedSeries]]) -> str:
        rule = self._rules[self._name(number)]
        terms = list(_collect_terms(rule, fed))
        lacking = [each.term for each in terms if not each.series]
        if lacking:
            return f"no series of {' and of '.join(dict.fromkeys(describe_term(term) for term in lacking))}"
        if any(_is_short_counter(each.series) for each in terms):
            return "needs two points of its counters, and the capture has one; add a later body"
        if rule.denominator and _sum_last_values(terms[len(rule.list_numerator()) :]) == 0:
            return "its denominator is 0"
        return "its series have no values in the same step"


def describe_term(term: Term) -> str:
    """Return a term as text: `node_load1{mode="user",device!="lo"}`."""
    labels = [f'{label}="{_join(patterns)}"' for label, patterns in term.where.items()]
    labels += [f'{label}!="{_join(patterns)}"' for label, patterns in term.where_not.items()]
    return _join(term.metric) + (f"{{{','.join(labels)}}}" if labels else "")


def _join(patterns: Patterns) -> str:
    return patterns if isinstance(patterns, str) else "|".join(patterns)


def _group_by_rule(server: CheckedServer) -> Mapping[int, list[tuple[Use, CheckedSeries]]]:
    grouped: dict[int, list[tuple[Use, CheckedSeries]]] = {}
    for series in server.series:
        if isinstance(series.result, Match):
            for use in series.result.uses:
                grouped.setdefault(use.rule, []).append((use, series))
    return grouped


def _has_numerator(fed: Iterable[tuple[Use, CheckedSeries]]) -> bool:
    return any(use.role is Role.NUMERATOR for use, _ in fed)


def _collect_terms(rule: MappingRule, fed: Sequence[tuple[Use, CheckedSeries]]) -> Iterator[_TermSeries]:
    for role, terms in ((Role.NUMERATOR, rule.list_numerator()), (Role.DENOMINATOR, rule.denominator)):
        for place, term in enumerate(terms):
            found = [series for use, series in fed if (use.role, use.term) == (role, place) and series.points]
            yield _TermSeries(term, found)


def _is_short_counter(many: Sequence[CheckedSeries]) -> bool:
    """Whether all series of a term are counters that do not have two points at different times."""
    return all(
        isinstance(series.result, Match)
        and series.result.kind is Kind.COUNTER
        and series.first_time == series.last_time
        for series in many
    )


def _sum_last_values(terms: Iterable[_TermSeries]) -> float:
    return sum(each.term.sign * sum(series.last_value for series in each.series) for each in terms)
