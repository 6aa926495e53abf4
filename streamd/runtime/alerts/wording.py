"""Alerts in words, for people: the summary and the description that a notification shows.

Pure functions of an alert and the time; the names and forms of a protocol are elsewhere.
"""

import time

from streamd.core.shown_values import format_value
from streamd.runtime.alerts.alert import Alert, AlertState, CrossingTimes

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def write_summary(alert: Alert, now: float) -> str:
    """Return one line about an alert: "disk_usage of db-07 reaches 90 % in about 3 h 10 min (2 h 40 min to 5 h)"."""
    subject = f"{alert.target} of {alert.server}"
    if alert.state is AlertState.RESOLVED:
        return f"{subject}: {_write_end(alert)}"
    return f"{subject} {_write_crossing(alert, now)}"


def write_description(alert: Alert, now: float) -> str:
    """Return the details of an alert in a few sentences, with times of the clock in UTC, which do not grow old."""
    sentences = [f"{write_summary(alert, now)}."]
    if alert.state is not AlertState.RESOLVED:
        sentences.append(_write_clock_times(alert.crosses_at))
    side = "above" if alert.is_above else "below"
    sentences.append(
        f"Rule {alert.rule}: the {alert.quantile:g} quantile at or {side} {format_value(alert.threshold, alert.unit)} "
        f"within {describe_duration(alert.within_seconds)}."
    )
    sentences.append(f"Forecast of {alert.model} from {format_clock(alert.origin)}.")
    return " ".join(sentence for sentence in sentences if sentence)


def describe_duration(seconds: float) -> str:
    """Return a duration in its two largest units: `40 s`, `12 min`, `3 h 10 min`, `2 d 4 h`."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _MINUTE)
    if minutes < _HOUR // _MINUTE:
        return f"{minutes} min"
    if minutes < _DAY // _MINUTE:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, rest = divmod(round(minutes / 60), 24)
    return f"{days} d {rest} h" if rest else f"{days} d"


def format_clock(epoch_seconds: float) -> str:
    """Return a time in UTC, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(epoch_seconds))


def _write_crossing(alert: Alert, now: float) -> str:
    times, value = alert.crosses_at, format_value(alert.threshold, alert.unit)
    verb = "reaches" if alert.is_above else "falls to"
    if times.likely is None:
        if times.earliest is None:
            return f"may {'reach' if alert.is_above else 'fall to'} {value}"
        earliest = describe_duration(max(times.earliest - now, 0.0))
        return f"may {'reach' if alert.is_above else 'fall to'} {value} in {earliest} at the earliest"
    if times.likely <= now:
        return f"is forecast to be at or {'above' if alert.is_above else 'below'} {value} now"
    likely = describe_duration(times.likely - now)
    earliest = likely if times.earliest is None else describe_duration(max(times.earliest - now, 0.0))
    if times.latest is None:
        return f"{verb} {value} in about {likely} ({earliest} at the earliest, perhaps not at all)"
    return f"{verb} {value} in about {likely} ({earliest} to {describe_duration(max(times.latest - now, 0.0))})"


def _write_end(alert: Alert) -> str:
    value = format_value(alert.threshold, alert.unit)
    verb = "reach" if alert.is_above else "fall to"
    ends = {
        "unknown": f"not sent for a whole window, so it is not known whether it will {verb} {value}",
        "silent": f"its forecasts have ended; the last one {'reached' if alert.is_above else 'fell to'} {value}",
        "forgotten": "the server was forgotten",
        "rule_changed": f"the rule {alert.rule} was changed or removed",
    }
    return ends.get(
        alert.reason, f"no longer forecast to {verb} {value} within {describe_duration(alert.within_seconds)}"
    )


def _write_clock_times(times: CrossingTimes) -> str:
    named = (("earliest", times.earliest), ("likely", times.likely), ("latest", times.latest))
    shown = [f"{name} {format_clock(at)}" for name, at in named if at is not None]
    return f"Crossing: {', '.join(shown)}." if shown else ""
