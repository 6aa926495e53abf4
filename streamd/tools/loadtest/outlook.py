"""The table of a fleet's outlook: now, some hours on, and a fan for each server. Formats; asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamd.tools.loadtest.picture import Fan, Series, draw_series, legend
from streamd.tools.loadtest.terminal import Terminal

LOW, MEDIAN, HIGH = 0.1, 0.5, 0.9
NARROWEST_FAN, WIDEST_FAN = 12, 60
LARGE_FAN_LINES = 8
HEADS = ("now", "p10", "p50", "p90", "came")
NUMBER = 7


@dataclass(frozen=True, slots=True)
class Outlook:
    """One server and target: its fan, and the unit it is in."""

    server: str
    target: str
    fan: Fan

    def cells(self, ahead_steps: int) -> tuple[str, str, str, str, str]:
        """Now, p10, p50 and p90 of the step that is ``ahead_steps`` on, and what came then."""
        fan, at = self.fan, ahead_steps - 1
        now = fan.history[-1] if len(fan.history) else np.nan
        came = fan.came[at] if at < len(fan.came) else np.nan
        return _number(now), _number(fan.low[at]), _number(fan.median[at]), _number(fan.high[at]), _number(came)


def fan_of(
    values: NDArray[np.float64], quantiles: Sequence[float], history: Series, came: Series, fan_steps: int
) -> Fan:
    """A fan from one target's forecast ``values [horizon, quantile]``, ``fan_steps`` long."""
    low, median, high = (_nearest(quantiles, wanted) for wanted in (LOW, MEDIAN, HIGH))
    cut = values[:fan_steps]
    return Fan(history, cut[:, low], cut[:, median], cut[:, high], came[:fan_steps])


def outlook_table(
    rows: Sequence[Sequence[Outlook]], ahead_steps: int, ahead_hours: float, fan_hours: float, terminal: Terminal
) -> list[str]:
    """``rows``: the outlooks of each server, a line each; the fan of the first stands over all of its lines."""
    columns = TableColumns.fitting(rows, terminal.width)
    lines = columns.heads(rows, ahead_hours, fan_hours, terminal)
    for outlooks in rows:
        pictures = draw_series(outlooks[0].fan, columns.fan, len(outlooks), terminal) if columns.fan else []
        for index, one in enumerate(outlooks):
            text = columns.line(one, index == 0, ahead_steps, terminal)
            lines.append(f"{text}   {pictures[index]}" if pictures else text)
    return lines


@dataclass(frozen=True, slots=True)
class TableColumns:
    """How wide the table's columns are; ``fan`` is 0 where the terminal has no room for one."""

    server: int
    target: int
    fan: int

    @classmethod
    def fitting(cls, rows: Sequence[Sequence[Outlook]], width: int) -> TableColumns:
        """The widths that these rows need in a terminal of this width."""
        server = max(len("server"), *(len(one.server) for outlooks in rows for one in outlooks))
        target = max(len(one.target) for outlooks in rows for one in outlooks)
        room = width - (2 + server + 2 + target + len(HEADS) * NUMBER) - 4
        return cls(server, target, min(room, WIDEST_FAN) if room >= NARROWEST_FAN else 0)

    def heads(
        self, rows: Sequence[Sequence[Outlook]], ahead_hours: float, fan_hours: float, terminal: Terminal
    ) -> list[str]:
        """Two lines over the table."""
        indent = 2 + self.server + 2 + self.target
        above = " " * (indent + NUMBER) + f"in {ahead_hours:g} h".center((len(HEADS) - 1) * NUMBER)
        head = f"  {'server':<{indent - 2}}" + "".join(f"{text:>{NUMBER}}" for text in HEADS)
        if self.fan:
            head += f"   {rows[0][0].target}, {fan_hours:g} h back and on"
        return [terminal.dim(above), terminal.bold(head)]

    def line(self, one: Outlook, named: bool, ahead_steps: int, terminal: Terminal) -> str:
        """One server's numbers for one target."""
        now, low, median, high, came = (f"{text:>{NUMBER}}" for text in one.cells(ahead_steps))
        server = f"{one.server if named else '':<{self.server}}"
        target = terminal.dim(f"{one.target:<{self.target}}")
        return f"  {server}  {target}{now}{low}{terminal.paint(median, '1;36')}{high}{terminal.paint(came, '33')}"


def portrait(one: Outlook, hours: float, terminal: Terminal) -> list[str]:
    """A large fan with its scale."""
    least, greatest = one.fan.range()
    edge = 9
    width = min(terminal.width - edge - 4, 2 * WIDEST_FAN)
    lines = [terminal.bold(f"  {one.server}  {one.target}") + f"   past, and {hours:g} h on   {legend(terminal)}"]
    pictures = draw_series(one.fan, width, LARGE_FAN_LINES, terminal)
    for index, picture in enumerate(pictures):
        scale = {0: _number(greatest), LARGE_FAN_LINES - 1: _number(least)}.get(index, "")
        lines.append(f"  {terminal.dim(f'{scale:>{edge - 1}}')} {picture}")
    return lines


def liveliest(rows: Sequence[Sequence[Outlook]]) -> Outlook:
    """The outlook whose fan is the best to look at: the one that moves most, by its own range."""
    outlooks = [one for outlooks in rows for one in outlooks]
    return max(outlooks, key=lambda one: float(np.nanstd(one.fan.median)) / (np.ptp(one.fan.range()) or 1.0))


def _nearest(quantiles: Sequence[float], wanted: float) -> int:
    return int(np.argmin([abs(quantile - wanted) for quantile in quantiles]))


def _number(value: float) -> str:
    """Four characters or so; a dash where nothing is known."""
    if not np.isfinite(value):
        return "-"
    size = abs(value)
    if size >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if size >= 1000 else f"{value:.1f}" if size >= 1 or value == 0 else f"{value:.3f}"
