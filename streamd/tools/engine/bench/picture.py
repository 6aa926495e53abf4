"""A benchmark's results as a picture: throughput by variant, a group of bars for each batch size and number of lanes.

Written as SVG by hand: nothing needs to be installed to draw or to see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222222")
WIDTH, LEFT, RIGHT, TOP = 860, 130, 190, 64
BAR, GAP = 15, 14


def draw_bench_picture(results: Mapping[str, Any]) -> str:
    """The picture; a label at each bar tells windows a second and the median latency."""
    cells = results["results"]
    variants = list(dict.fromkeys(cell["variant"] for cell in cells))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(variants)}
    most = max((cell["windows_per_second"] for cell in cells), default=1.0) or 1.0
    parts = _legend(variants, colours)
    top = TOP + 20 * -(-len(variants) // 3)
    previous = None
    for cell in cells:
        group = (cell["batch"], cell["lanes"])
        if group != previous:
            top += GAP if previous else 0
            parts.append(_text(LEFT - 8, top + BAR - 3, f"batch {group[0]}, {_lanes(group[1])}", anchor="end"))
            previous = group
        length = (WIDTH - LEFT - RIGHT) * cell["windows_per_second"] / most
        label = f"{cell['windows_per_second']:,.0f}/s, p50 {cell['latency_ms']['p50']:.2f} ms"
        parts.append(
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR - 2}" fill="{colours[cell["variant"]]}"/>'
        )
        parts.append(_text(LEFT + length + 5, top + BAR - 4, label))
        top += BAR
    title = _text(LEFT, 24, f"{results['version']}: windows a second", size=15)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + GAP}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>{title}{"".join(parts)}</svg>\n'
    )


def _legend(variants: list[str], colours: Mapping[str, str]) -> list[str]:
    parts = []
    for index, name in enumerate(variants):
        left, top = LEFT + 220 * (index % 3), 40 + 20 * (index // 3)
        parts.append(f'<rect x="{left}" y="{top}" width="12" height="12" fill="{colours[name]}"/>')
        parts.append(_text(left + 17, top + 10, name))
    return parts


def _lanes(count: int) -> str:
    return "1 lane" if count == 1 else f"{count} lanes"


def _text(left: float, top: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{left:.1f}" y="{top}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
