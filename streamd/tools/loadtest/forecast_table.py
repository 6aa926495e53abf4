"""The demo's table of forecasts: the value now, the quantiles some hours ahead, and a fan chart of each server.

Formats text; reads nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from streamd.tools.loadtest.fan_chart import Fan, Series, draw_fan, format_legend
from streamd.tools.loadtest.terminal import Terminal

LOW, MEDIAN, HIGH = 0.1, 0.5, 0.9
NARROWEST_FAN, WIDEST_FAN = 12, 60
LARGE_FAN_LINES = 8
COLUMN_HEADS = ("now", "p10", "p50", "p90", "actual")
NUMBER_WIDTH = 7


@dataclass(frozen=True, slots=True)
class TargetForecast:
    """The forecast of one target of one server."""

    server: str
    target: str
    fan: Fan

    def format_cells(self, ahead_steps: int) -> tuple[str, str, str, str, str]:
        """Format the value now, p10, p50 and p90 of the step that is `ahead_steps` ahead, and its actual value."""
        fan, at = self.fan, ahead_steps - 1
        now = fan.history[-1] if len(fan.history) else np.nan
        actual = fan.actual[at] if at < len(fan.actual) else np.nan
        return (
            _format_number(now),
            _format_number(fan.low[at]),
            _format_number(fan.median[at]),
            _format_number(fan.high[at]),
            _format_number(actual),
        )


def make_fan(
    values: NDArray[np.float64], quantiles: Sequence[float], history: Series, actual: Series, fan_steps: int
) -> Fan:
    """Make a fan of `fan_steps` steps from the forecast of one target, `values` of `(horizon, quantile)`."""
    low, median, high = (_find_nearest(quantiles, level) for level in (LOW, MEDIAN, HIGH))
    cut = values[:fan_steps]
    return Fan(history=history, low=cut[:, low], median=cut[:, median], high=cut[:, high], actual=actual[:fan_steps])


def format_forecast_table(
    rows: Sequence[Sequence[TargetForecast]], ahead_steps: int, ahead_hours: float, fan_hours: float, terminal: Terminal
) -> list[str]:
    """Format the forecasts of each server, a line for each target.

    The fan chart of a server's first target is drawn beside all of its lines.
    """
    columns = TableColumns.fit_columns(rows, terminal.width)
    lines = columns.format_heads(rows, ahead_hours, fan_hours, terminal)
    for forecasts in rows:
        pictures = draw_fan(forecasts[0].fan, columns.fan, len(forecasts), terminal) if columns.fan else []
        for index, one in enumerate(forecasts):
            text = columns.format_line(one, index == 0, ahead_steps, terminal)
            lines.append(f"{text}   {pictures[index]}" if pictures else text)
    return lines


@dataclass(frozen=True, slots=True)
class TableColumns:
    """The widths of the table's columns; `fan` is 0 if the terminal has no space for it."""

    server: int
    target: int
    fan: int

    @classmethod
    def fit_columns(cls, rows: Sequence[Sequence[TargetForecast]], width: int) -> Self:
        """Compute the widths that these rows need in a terminal of this width."""
        server = max(len("server"), *(len(one.server) for forecasts in rows for one in forecasts))
        target = max(len(one.target) for forecasts in rows for one in forecasts)
        space = width - (2 + server + 2 + target + len(COLUMN_HEADS) * NUMBER_WIDTH) - 4
        return cls(server, target, min(space, WIDEST_FAN) if space >= NARROWEST_FAN else 0)

    def format_heads(
        self, rows: Sequence[Sequence[TargetForecast]], ahead_hours: float, fan_hours: float, terminal: Terminal
    ) -> list[str]:
        """Format the two lines above the table."""
        indent = 2 + self.server + 2 + self.target
        above = " " * (indent + NUMBER_WIDTH) + f"in {ahead_hours:g} h".center((len(COLUMN_HEADS) - 1) * NUMBER_WIDTH)
        head = f"  {'server':<{indent - 2}}" + "".join(f"{text:>{NUMBER_WIDTH}}" for text in COLUMN_HEADS)
        if self.fan:
            head += f"   {rows[0][0].target}, {fan_hours:g} h back and ahead"
        return [terminal.dim(above), terminal.bold(head)]

    def format_line(self, one: TargetForecast, is_first: bool, ahead_steps: int, terminal: Terminal) -> str:
        """Format the numbers of one target; the server's name is only on its first line."""
        now, low, median, high, actual = (f"{text:>{NUMBER_WIDTH}}" for text in one.format_cells(ahead_steps))
        server = f"{one.server if is_first else '':<{self.server}}"
        target = terminal.dim(f"{one.target:<{self.target}}")
        return f"  {server}  {target}{now}{low}{terminal.paint(median, '1;36')}{high}{terminal.paint(actual, '33')}"


def format_large_fan(one: TargetForecast, hours: float, terminal: Terminal) -> list[str]:
    """Draw a large fan chart with its scale."""
    least, greatest = one.fan.find_range()
    edge = 9
    width = min(terminal.width - edge - 4, 2 * WIDEST_FAN)
    lines = [
        terminal.bold(f"  {one.server}  {one.target}") + f"   past, and {hours:g} h ahead   {format_legend(terminal)}"
    ]
    pictures = draw_fan(one.fan, width, LARGE_FAN_LINES, terminal)
    for index, picture in enumerate(pictures):
        scale = {0: _format_number(greatest), LARGE_FAN_LINES - 1: _format_number(least)}.get(index, "")
        lines.append(f"  {terminal.dim(f'{scale:>{edge - 1}}')} {picture}")
    return lines


def find_most_varied(rows: Sequence[Sequence[TargetForecast]]) -> TargetForecast:
    """Return the forecast that varies most in relation to its own range: the best one to show."""
    return max((one for forecasts in rows for one in forecasts), key=_measure_variation)


def _measure_variation(one: TargetForecast) -> float:
    """Return how much a forecast varies; less than any other if its target is unknown."""
    median = one.fan.median[np.isfinite(one.fan.median)]
    return float(median.std() / np.ptp(one.fan.find_range())) if len(median) else -1.0


def _find_nearest(quantiles: Sequence[float], level: float) -> int:
    return int(np.argmin([abs(quantile - level) for quantile in quantiles]))


def _format_number(value: float) -> str:
    """Format a number in about four characters; NaN and infinity as a dash."""
    if not np.isfinite(value):
        return "-"
    size = abs(value)
    if size >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if size >= 1000 else f"{value:.1f}" if size >= 1 or value == 0 else f"{value:.3f}"
