"""Durations as people write them in the settings: `90s`, `30m`, `4h`, `1.5d`. Pure."""

import re

_FORM = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([smhd])", re.ASCII)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_duration(text: str) -> float | None:
    """Return the seconds of a duration; `None` if it is none, or is zero."""
    parts = _FORM.fullmatch(text)
    seconds = float(parts[1]) * _UNIT_SECONDS[parts[2]] if parts else 0.0
    return seconds or None
