"""Fan charts of forecasts drawn with characters: braille if the terminal has Unicode, otherwise plain ASCII.

Draws arrays as lines of text; knows nothing of servers or daemons.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamd.tools.loadtest.terminal import Terminal

Series = NDArray[np.float64]

BRAILLE = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a braille cell, by row and column; the character is U+2800 with these bits."""
DOTS_HIGH, DOTS_WIDE = 4, 2

EMPTY, BAND, HISTORY, ACTUAL, MEDIAN = range(5)
"""The kinds of a dot. Where two kinds meet in one cell, the greater one is drawn."""
DASH = 3
STYLES = ("", "36", "", "33", "1;36")
LETTERS = " :*o="


@dataclass(frozen=True, slots=True, kw_only=True)
class Fan:
    """The series of one server and target, the oldest value first, in the target's unit; NaN where missing."""

    history: Series
    """`(h,)`: the values up to now."""
    low: Series
    """`(f,)`: the low quantile from now on."""
    median: Series
    """`(f,)`"""
    high: Series
    """`(f,)`"""
    actual: Series
    """`(f,)`: the values that really followed; NaN or shorter if they are not known."""

    def find_range(self) -> tuple[float, float]:
        """Return the least and the greatest value; they are never equal, so that they can be a scale."""
        found = np.concatenate([self.history, self.low, self.high, self.actual])
        found = found[np.isfinite(found)]
        if not len(found):
            return 0.0, 1.0
        least, greatest = float(found.min()), float(found.max())
        return (least, greatest) if greatest > least else (least - 0.5, greatest + 0.5)


def draw_fan(fan: Fan, width: int, height: int, terminal: Terminal) -> list[str]:
    """Draw `height` lines of `width` cells: the history, a bar at the present, then the fan."""
    across, down = (DOTS_WIDE, DOTS_HIGH) if terminal.has_unicode else (1, 1)
    past_cells = max(1, round((width - 1) * len(fan.history) / (len(fan.history) + len(fan.median))))
    past = _rasterize_history(fan, past_cells * across, height * down)
    future = _rasterize_forecast(fan, (width - 1 - past_cells) * across, height * down, terminal.has_colour)
    bar = terminal.dim("│" if terminal.has_unicode else "|")
    return [
        left + bar + right
        for left, right in zip(_format_lines(past, terminal), _format_lines(future, terminal), strict=True)
    ]


def format_legend(terminal: Terminal) -> str:
    """Format the meaning of the marks."""
    if terminal.has_unicode:
        band, median, actual = "⢕", "⠤", "⠤" if terminal.has_colour else "⠄"
    else:
        band, median, actual = LETTERS[BAND], LETTERS[MEDIAN], LETTERS[ACTUAL]
    named = [(band, BAND, "p10 to p90"), (median, MEDIAN, "p50"), (actual, ACTUAL, "actual")]
    return "  ".join(f"{terminal.paint(mark, STYLES[kind])} {name}" for mark, kind, name in named)


def _rasterize_history(fan: Fan, width: int, height: int) -> NDArray[np.int8]:
    raster = np.zeros((height, width), dtype=np.int8)
    _draw_line(raster, _scale_to_rows(_resample(fan.history, width), fan.find_range(), height), HISTORY)
    return raster


def _rasterize_forecast(fan: Fan, width: int, height: int, colour: bool) -> NDArray[np.int8]:
    raster = np.zeros((height, width), dtype=np.int8)
    bottom = _scale_to_rows(_resample(fan.low, width), fan.find_range(), height)
    top = _scale_to_rows(_resample(fan.high, width), fan.find_range(), height)
    for column in range(width):
        if np.isfinite(top[column]) and np.isfinite(bottom[column]):
            raster[int(top[column]) : int(bottom[column]) + 1, column] = BAND
    if len(fan.actual):
        actual = _scale_to_rows(_resample(fan.actual, width), fan.find_range(), height)
        if not colour:
            actual[1::DASH] = actual[2::DASH] = np.nan  # Without colour, dashes distinguish it from the median.
        _draw_line(raster, actual, ACTUAL)
    _draw_line(raster, _scale_to_rows(_resample(fan.median, width), fan.find_range(), height), MEDIAN)
    return raster


def _resample(series: Series, width: int) -> Series:
    """Interpolate `width` values, so that a long series and a short one fill the same space."""
    if not len(series):
        return np.full(width, np.nan)
    return np.interp(np.linspace(0, len(series) - 1, width), np.arange(len(series)), series)


def _scale_to_rows(values: Series, scale: tuple[float, float], height: int) -> Series:
    """Return the row of each value, counted from the top: 0 to `height - 1`."""
    least, greatest = scale
    return np.round((greatest - values) / (greatest - least) * (height - 1))


def _draw_line(raster: NDArray[np.int8], rows: Series, kind: int) -> None:
    """Draw a dot in each column, joined to the previous column if the values jump."""
    before = np.nan
    for column, row in enumerate(rows):
        if np.isfinite(row):
            begin = row if not np.isfinite(before) else before + np.sign(row - before) if row != before else row
            least, greatest = int(min(begin, row)), int(max(begin, row))
            raster[least : greatest + 1, column] = kind
        before = row


def _format_lines(raster: NDArray[np.int8], terminal: Terminal) -> list[str]:
    if not terminal.has_unicode:
        cells = [[(LETTERS[kind], int(kind)) for kind in row] for row in raster]
    else:
        height, width = raster.shape
        cells = [
            [
                _format_cell(raster[top : top + DOTS_HIGH, left : left + DOTS_WIDE])
                for left in range(0, width, DOTS_WIDE)
            ]
            for top in range(0, height, DOTS_HIGH)
        ]
    return [_paint_cells(line, terminal) for line in cells]


def _format_cell(dots: NDArray[np.int8]) -> tuple[str, int]:
    """Return the character of 4 x 2 dots, and the kind that it shows."""
    # A band of all dots would hide the lines in it if there is no colour, so a band has every other dot.
    shown = [
        bit
        for row, bits in enumerate(DOTS)
        for column, bit in enumerate(bits)
        if dots[row, column] > BAND or (dots[row, column] == BAND and (row + column) % 2 == 0)
    ]
    return chr(BRAILLE | sum(shown)), int(dots.max())


def _paint_cells(cells: Sequence[tuple[str, int]], terminal: Terminal) -> str:
    """Paint cells; neighbours of one kind share their escape codes."""
    groups = itertools.groupby(cells, key=lambda cell: cell[1])
    return "".join(terminal.paint("".join(text for text, _ in group), STYLES[kind]) for kind, group in groups)
