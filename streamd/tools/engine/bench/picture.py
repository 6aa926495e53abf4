"""Draws a benchmark's results: throughput by variant, a group of bars for each batch size and number of lanes.

Writes SVG itself, so that nothing needs to be installed to draw or to view it.
"""

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222222")
PICTURE_WIDTH, LEFT_MARGIN, RIGHT_MARGIN, TOP_MARGIN = 860, 130, 190, 64
BAR_HEIGHT, GROUP_GAP = 15, 14


def draw_bench_picture(results: Mapping[str, Any]) -> str:
    """Return the picture as SVG; a label at each bar shows windows a second and the median latency."""
    cells = results["results"]
    variants = list(dict.fromkeys(cell["variant"] for cell in cells))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(variants)}
    most = max((cell["windows_per_second"] for cell in cells), default=1.0) or 1.0
    parts = _draw_legend(variants, colours)
    top = TOP_MARGIN + 20 * -(-len(variants) // 3)
    previous = None
    for cell in cells:
        group = (cell["batch"], cell["lanes"])
        if group != previous:
            top += GROUP_GAP if previous else 0
            parts.append(
                _draw_text(
                    LEFT_MARGIN - 8, top + BAR_HEIGHT - 3, f"batch {group[0]}, {_format_lanes(group[1])}", anchor="end"
                )
            )
            previous = group
        length = (PICTURE_WIDTH - LEFT_MARGIN - RIGHT_MARGIN) * cell["windows_per_second"] / most
        label = f"{cell['windows_per_second']:,.0f}/s, p50 {cell['latency_ms']['p50']:.2f} ms"
        parts.append(
            f'<rect x="{LEFT_MARGIN}" y="{top}" width="{length:.1f}" height="{BAR_HEIGHT - 2}"'
            f' fill="{colours[cell["variant"]]}"/>'
        )
        parts.append(_draw_text(LEFT_MARGIN + length + 5, top + BAR_HEIGHT - 4, label))
        top += BAR_HEIGHT
    title = _draw_text(LEFT_MARGIN, 24, f"{results['version']}: windows a second", size=15)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PICTURE_WIDTH} {top + GROUP_GAP}"'
        ' font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>{title}{"".join(parts)}</svg>\n'
    )


def _draw_legend(variants: list[str], colours: Mapping[str, str]) -> list[str]:
    parts = []
    for index, name in enumerate(variants):
        left, top = LEFT_MARGIN + 220 * (index % 3), 40 + 20 * (index // 3)
        parts.append(f'<rect x="{left}" y="{top}" width="12" height="12" fill="{colours[name]}"/>')
        parts.append(_draw_text(left + 17, top + 10, name))
    return parts


def _format_lanes(count: int) -> str:
    return "1 lane" if count == 1 else f"{count} lanes"


def _draw_text(left: float, top: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{left:.1f}" y="{top}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
