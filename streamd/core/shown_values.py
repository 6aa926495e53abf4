"""Values with their units as people write them: `90 %`. Pure; the units are those of a contract."""

_SHOWN_UNITS = {"percent": " %", "count": "", "1": ""}
"""Units that people write otherwise, or not at all; each other one follows the number as it is."""


def format_value(value: float, unit: str) -> str:
    """Return a value with its unit; an empty unit adds nothing."""
    return f"{value:g}{_SHOWN_UNITS.get(unit, f' {unit}' if unit else '')}"
