"""What a terminal can show: width, colour, Unicode; and the table, bar and numbers drawn with it.

Small on purpose: the core install has no drawing library, and a load test's report needs none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

NARROWEST, WIDEST = 60, 160
EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True)
class Terminal:
    """What may be used on one stream."""

    width: int = 100
    colour: bool = False
    unicode: bool = False
    live: bool = False  # lines can be drawn over

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str] | None = None) -> Terminal:
        """Honours COLUMNS, NO_COLOR and TERM=dumb; what is no terminal gets neither colour nor redrawing."""
        environment = os.environ if environment is None else environment
        live = stream.isatty() and environment.get("TERM") != "dumb"
        columns = environment.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() and int(columns) else shutil.get_terminal_size((100, 24)).columns
        return cls(
            width=min(max(width, NARROWEST), WIDEST),
            colour=live and not environment.get("NO_COLOR"),
            unicode="utf" in (stream.encoding or "").lower(),
            live=live,
        )

    def paint(self, text: str, style: str) -> str:
        """``style``: SGR parameters, such as ``1;32``."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and style else text

    def bold(self, text: str) -> str:
        """For headings."""
        return self.paint(text, "1")

    def dim(self, text: str) -> str:
        """For what matters less."""
        return self.paint(text, "2")

    def good(self, text: str) -> str:
        """For success."""
        return self.paint(text, "1;32")

    def bad(self, text: str) -> str:
        """For failure."""
        return self.paint(text, "1;31")

    def rule(self, title: str = "") -> str:
        """A line across, with a title."""
        line = "─" if self.unicode else "-"
        head = f"{line * 2} {title} " if title else ""
        return self.bold(head) + self.dim(line * max(0, self.width - len(head)))

    def bar(self, share: float, width: int) -> str:
        """``width`` cells, filled to ``share`` (0..1)."""
        share = min(max(share, 0.0), 1.0)
        if not self.unicode:
            full = int(share * width)
            return "#" * full + "." * (width - full)
        full, eighth = divmod(int(share * width * 8), 8)
        part = EIGHTHS[eighth] if full < width else ""
        return self.paint(("█" * full + part).ljust(width, "░"), "36")

    def pairs(self, rows: Sequence[tuple[str, str]]) -> list[str]:
        """Names and values, aligned."""
        width = max((len(name) for name, _ in rows), default=0)
        return [f"  {self.dim(name.ljust(width))}  {value}" for name, value in rows]


def thousands(number: float | None, digits: int = 0) -> str:
    """``12,345``; a dash for None."""
    return "-" if number is None else f"{number:,.{digits}f}"


def milliseconds(value: float | None) -> str:
    """Three significant digits, in ms up to ten seconds, then in s."""
    if value is None:
        return "-"
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"
