"""Columns of text, padded to one width each: what the tables of several commands share."""

from collections.abc import Iterator, Sequence


def align_columns(rows: Sequence[tuple[str, ...]], *, right: bool = False) -> Iterator[str]:
    """Yield each row as a line, with two spaces between columns; `right` aligns texts to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  ".join(text.rjust(width) if right else text.ljust(width) for text, width in cells).rstrip()
