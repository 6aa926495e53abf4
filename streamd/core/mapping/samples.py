"""The rules for samples of `/v1/samples` if their rows are means: each feature of a server is one series. Pure."""

from collections.abc import Sequence

from streamd.core.mapping.rules import MappingRule, RuleSet
from streamd.core.mapping.series import Kind, SourceSeries

STATUS_FEATURE = "status"
"""The name of the status of a row, which rules compute as if it were a feature."""

_PREFIX = "sample:"


def make_sample_rules(features: Sequence[str]) -> RuleSet:
    """Return the rules for plain samples: features are gauges, the status is a state."""
    rules = {feature: MappingRule(metric=_PREFIX + feature) for feature in features}
    if STATUS_FEATURE not in rules:
        rules[STATUS_FEATURE] = MappingRule(metric=_PREFIX + STATUS_FEATURE, kind=Kind.STATE)
    return RuleSet(name="samples", server=["server"], rules=rules)


def make_sample_series(server: str, feature: str) -> SourceSeries:
    """Return the series of one feature in the plain samples of a server."""
    return SourceSeries(_PREFIX + feature, {"server": server})
