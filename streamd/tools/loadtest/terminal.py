"""The abilities of a terminal (width, colour, Unicode), and the tables, bars and numbers that are drawn with them.

Small on purpose: the core installation has no drawing library, and a load test's report needs none.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TextIO

NARROWEST, WIDEST = 60, 160
EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True)
class Terminal:
    """The abilities of one output stream."""

    width: int = 100
    has_colour: bool = False
    has_unicode: bool = False
    is_interactive: bool = False
    """Whether a line can be redrawn."""

    @classmethod
    def detect(cls, stream: TextIO, environment: Mapping[str, str] | None = None) -> Self:
        """Detect the abilities of a stream; follows COLUMNS, NO_COLOR and TERM=dumb.

        A stream that is not a terminal gets neither colour nor redrawn lines.
        """
        environment = os.environ if environment is None else environment
        is_interactive = stream.isatty() and environment.get("TERM") != "dumb"
        columns = environment.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() and int(columns) else shutil.get_terminal_size((100, 24)).columns
        return cls(
            width=min(max(width, NARROWEST), WIDEST),
            has_colour=is_interactive and not environment.get("NO_COLOR"),
            has_unicode="utf" in (stream.encoding or "").lower(),
            is_interactive=is_interactive,
        )

    def paint(self, text: str, style: str) -> str:
        """Return the text in a `style` of SGR parameters, such as `1;32`."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.has_colour and style else text

    def bold(self, text: str) -> str:
        """Return the text in bold, for headings."""
        return self.paint(text, "1")

    def dim(self, text: str) -> str:
        """Return the text dimmed, for less important parts."""
        return self.paint(text, "2")

    def paint_good(self, text: str) -> str:
        """Return the text in the colour of success."""
        return self.paint(text, "1;32")

    def paint_bad(self, text: str) -> str:
        """Return the text in the colour of failure."""
        return self.paint(text, "1;31")

    def draw_rule(self, title: str = "") -> str:
        """Draw a line across the terminal, with a title."""
        line = "─" if self.has_unicode else "-"
        head = f"{line * 2} {title} " if title else ""
        return self.bold(head) + self.dim(line * max(0, self.width - len(head)))

    def draw_bar(self, share: float, width: int) -> str:
        """Draw a bar of `width` cells, filled to `share` (0 to 1)."""
        share = min(max(share, 0.0), 1.0)
        if not self.has_unicode:
            full = int(share * width)
            return "#" * full + "." * (width - full)
        full, eighth = divmod(int(share * width * 8), 8)
        part = EIGHTHS[eighth] if full < width else ""
        return self.paint(("█" * full + part).ljust(width, "░"), "36")

    def format_pairs(self, rows: Sequence[tuple[str, str]]) -> list[str]:
        """Format names and values, aligned."""
        width = max((len(name) for name, _ in rows), default=0)
        return [f"  {self.dim(name.ljust(width))}  {value}" for name, value in rows]


def format_thousands(number: float | None, digits: int = 0) -> str:
    """Format a number as `12,345`, and `None` as a dash."""
    return "-" if number is None else f"{number:,.{digits}f}"


def format_milliseconds(value: float | None) -> str:
    """Format milliseconds: in ms below ten seconds, then in s; `None` as a dash."""
    if value is None:
        return "-"
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"
