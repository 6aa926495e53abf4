"""Series and forecast fans drawn with characters: braille where Unicode is there, plain ASCII elsewhere.

Draws arrays as lines of text; knows nothing of servers or daemons.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamd.tools.loadtest.terminal import Terminal

Series = NDArray[np.float64]

# Dots of a braille cell by row and column, as bits over U+2800.
BRAILLE = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
DOTS_HIGH, DOTS_WIDE = 4, 2

# What a dot can be, the later over the earlier where both want one cell.
EMPTY, BAND, HISTORY, CAME, MEDIAN = range(5)
DASH = 3
STYLES = ("", "36", "", "33", "1;36")
LETTERS = " :*o="


@dataclass(frozen=True, slots=True)
class Fan:
    """What is drawn of one server and target; oldest first, in the target's unit, NaN where missing.

    ``history [h]`` up to now; ``low``, ``median``, ``high`` ``[f]`` from now on; ``came [f]`` is what really
    followed, empty or NaN where nobody knows.
    """

    history: Series
    low: Series
    median: Series
    high: Series
    came: Series

    def range(self) -> tuple[float, float]:
        """Least and greatest value; never equal, so that it can be a scale."""
        found = np.concatenate([self.history, self.low, self.high, self.came])
        found = found[np.isfinite(found)]
        if not len(found):
            return 0.0, 1.0
        least, greatest = float(found.min()), float(found.max())
        return (least, greatest) if greatest > least else (least - 0.5, greatest + 0.5)


def draw_series(fan: Fan, width: int, height: int, terminal: Terminal) -> list[str]:
    """``height`` lines of ``width`` cells: history, then a bar at now, then the fan."""
    across, down = (DOTS_WIDE, DOTS_HIGH) if terminal.unicode else (1, 1)
    past_cells = max(1, round((width - 1) * len(fan.history) / (len(fan.history) + len(fan.median))))
    past = _raster_of_past(fan, past_cells * across, height * down)
    future = _raster_of_future(fan, (width - 1 - past_cells) * across, height * down, terminal.colour)
    bar = terminal.dim("│" if terminal.unicode else "|")
    return [left + bar + right for left, right in zip(_lines(past, terminal), _lines(future, terminal), strict=True)]


def legend(terminal: Terminal) -> str:
    """What the marks mean."""
    if terminal.unicode:
        band, median, came = "⢕", "⠤", "⠤" if terminal.colour else "⠄"
    else:
        band, median, came = LETTERS[BAND], LETTERS[MEDIAN], LETTERS[CAME]
    named = [(band, BAND, "p10 to p90"), (median, MEDIAN, "p50"), (came, CAME, "what really came")]
    return "  ".join(f"{terminal.paint(mark, STYLES[kind])} {name}" for mark, kind, name in named)


def _raster_of_past(fan: Fan, width: int, height: int) -> NDArray[np.int8]:
    raster = np.zeros((height, width), dtype=np.int8)
    _line(raster, _at(_resampled(fan.history, width), fan.range(), height), HISTORY)
    return raster


def _raster_of_future(fan: Fan, width: int, height: int, colour: bool) -> NDArray[np.int8]:
    raster = np.zeros((height, width), dtype=np.int8)
    bottom = _at(_resampled(fan.low, width), fan.range(), height)
    top = _at(_resampled(fan.high, width), fan.range(), height)
    for column in range(width):
        if np.isfinite(top[column]) and np.isfinite(bottom[column]):
            raster[int(top[column]) : int(bottom[column]) + 1, column] = BAND
    if len(fan.came):
        came = _at(_resampled(fan.came, width), fan.range(), height)
        if not colour:
            came[1::DASH] = came[2::DASH] = np.nan  # dashed, as nothing else tells it from the median
        _line(raster, came, CAME)
    _line(raster, _at(_resampled(fan.median, width), fan.range(), height), MEDIAN)
    return raster


def _resampled(series: Series, width: int) -> Series:
    """``width`` values, interpolated, so that a long series and a short one fill the same room."""
    if not len(series):
        return np.full(width, np.nan)
    return np.interp(np.linspace(0, len(series) - 1, width), np.arange(len(series)), series)


def _at(values: Series, scale: tuple[float, float], height: int) -> Series:
    """Rows from the top, ``0..height - 1``."""
    least, greatest = scale
    return np.round((greatest - values) / (greatest - least) * (height - 1))


def _line(raster: NDArray[np.int8], rows: Series, kind: int) -> None:
    """One dot a column, joined to the column before where it jumps."""
    before = np.nan
    for column, row in enumerate(rows):
        if np.isfinite(row):
            begin = row if not np.isfinite(before) else before + np.sign(row - before) if row != before else row
            least, greatest = int(min(begin, row)), int(max(begin, row))
            raster[least : greatest + 1, column] = kind
        before = row


def _lines(raster: NDArray[np.int8], terminal: Terminal) -> list[str]:
    if not terminal.unicode:
        cells = [[(LETTERS[kind], int(kind)) for kind in row] for row in raster]
    else:
        height, width = raster.shape
        cells = [
            [_cell(raster[top : top + DOTS_HIGH, left : left + DOTS_WIDE]) for left in range(0, width, DOTS_WIDE)]
            for top in range(0, height, DOTS_HIGH)
        ]
    return [_painted(line, terminal) for line in cells]


def _cell(dots: NDArray[np.int8]) -> tuple[str, int]:
    """The character of 4 x 2 dots, and what it shows."""
    # Without colour a line over its band would drown in it: there the band keeps every other dot.
    shown = [
        bit
        for row, bits in enumerate(DOTS)
        for column, bit in enumerate(bits)
        if dots[row, column] > BAND or (dots[row, column] == BAND and (row + column) % 2 == 0)
    ]
    return chr(BRAILLE | sum(shown)), int(dots.max())


def _painted(cells: Sequence[tuple[str, int]], terminal: Terminal) -> str:
    """Neighbours of one kind share their escape codes."""
    groups = itertools.groupby(cells, key=lambda cell: cell[1])
    return "".join(terminal.paint("".join(text for text, _ in group), STYLES[kind]) for kind, group in groups)
