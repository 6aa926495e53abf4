"""Says in plain words what a rule means for a model: when it fires, when it ends, and what it never does."""

from streamd.core.alerts.rules import AlertRule
from streamd.core.contract import ModelContract
from streamd.core.recent_values import count_recent_rows
from streamd.core.shown_values import format_value


def explain_rule(rule: AlertRule, contract: ModelContract) -> list[str]:
    """Return the lines that explain a rule, the first of which is its summary."""
    minutes = contract.step_seconds / 60
    side, safe = ("at or above", "below") if rule.is_above else ("at or below", "above")
    clear = format_value(rule.clear_threshold, rule.unit)
    within, times = format_hours(rule.within_seconds), _format_times(rule.consecutive)
    return [
        f"{rule.name} ({rule.severity}): {rule.target} {side} {format_value(rule.threshold, rule.unit)} "
        f"within {within}",
        f"servers: {_format_servers(rule)}",
        f"fires: when the {rule.quantile:g} quantile of {times} crosses at most {within} ahead; "
        + _explain_quantile(rule),
        f"ends: when it stays {safe} {clear} for all of that time in {times}; in between nothing changes",
        f"delay: at a row every {minutes:g} minutes it takes {rule.consecutive * minutes:g} minutes to fire or to end",
        f"range: from the quantiles {_format_range(rule, contract)}; no latest time if that curve does not cross in "
        f"{format_hours(contract.horizon * contract.step_seconds)}",
        f"silent: while a window has fewer than {rule.min_rows} rows ({format_hours(rule.min_rows * 60 * minutes)}), "
        f"or no value of {rule.target} in the newest {count_recent_rows(contract.context_length)} rows",
        f"unknown: where no row of the window has a value of {rule.target}; an alert that fires ends there",
    ]


def format_hours(seconds: float) -> str:
    """Format a time in hours, or in minutes if it is shorter than two hours."""
    return f"{seconds / 60:g} minutes" if seconds < 7_200 else f"{seconds / 3_600:g} hours"


def _explain_quantile(rule: AlertRule) -> str:
    """Say how likely it is that the value really crosses, if the model is right about its own certainty."""
    level = rule.quantile
    chance = 1 - level if rule.is_above else level
    return f"a step that crosses is one whose value does so with a chance of {100 * chance:.0f} % or more"


def _format_times(count: int) -> str:
    return "one forecast" if count == 1 else f"{count} forecasts in a row"


def _format_range(rule: AlertRule, contract: ModelContract) -> str:
    earliest, likely, latest = (contract.quantiles[index] for index in rule.range_indices)
    return f"{earliest:g} (earliest), {likely:g} (likely) and {latest:g} (latest)"


def _format_servers(rule: AlertRule) -> str:
    return "all" if rule.servers.is_all else ", ".join(rule.servers.globs)
