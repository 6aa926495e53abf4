"""Values of flags that several subcommands take; what is wrong is said in a line, with what was expected."""

from __future__ import annotations

import argparse

from streamd.core.names import PRECISIONS

LARGEST_BATCH = 65_536


def parse_precisions(text: str) -> tuple[str, ...]:
    """`fp32,fp16` as given, none twice."""
    given = tuple(part.strip() for part in text.split(","))
    if unknown := [part for part in given if part not in PRECISIONS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: expected some of {','.join(PRECISIONS)}")
    return tuple(dict.fromkeys(given))


def parse_batch_sizes(text: str) -> tuple[int, ...]:
    """`1,8,32` as rising numbers, none twice."""
    try:
        given = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers with commas, as 1,8,32") from None
    if any(not 1 <= size <= LARGEST_BATCH for size in given):
        raise argparse.ArgumentTypeError(f"{text!r}: expected sizes from 1 to {LARGEST_BATCH}")
    return tuple(sorted(set(given)))


def parse_mebibytes(text: str) -> int:
    """MiB to bytes."""
    try:
        size = int(text)
    except ValueError:
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of MiB, as 4096")
    return size * 2**20
