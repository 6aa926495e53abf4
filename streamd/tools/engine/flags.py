"""Values of flags that several subcommands take, and the defaults that `--help` shows.

Imports nothing heavy, so that `--help` is quick. A wrong value is reported in one line, with what was expected.
"""

import argparse

from streamd.core.names import PRECISIONS

LARGEST_BATCH = 65_536
DEFAULT_BUCKETS = (1, 8, 32, 64, 128, 256)
DEFAULT_WORKSPACE_BYTES = 4 * 2**30
CALIBRATIONS = ("entropy", "minmax")
"""Methods that take the range of a tensor from windows, the default first."""

LARGEST_MOVE = 0.01
"""How far one product in int8 may move an output, as a share of it; a sound product moves it by a tenth of that.

With 0.01 the shipped models pass the accuracy gate in int8; with 0.05 the patched one fails it.
"""


def parse_precisions(text: str) -> tuple[str, ...]:
    """Return `fp32,fp16` as a tuple, in the given order and without duplicates."""
    given = tuple(part.strip() for part in text.split(","))
    if unknown := [part for part in given if part not in PRECISIONS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: expected some of {','.join(PRECISIONS)}")
    return tuple(dict.fromkeys(given))


def parse_batch_sizes(text: str) -> tuple[int, ...]:
    """Return `1,8,32` as rising numbers without duplicates."""
    try:
        given = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers with commas, as 1,8,32") from None
    if any(not 1 <= size <= LARGEST_BATCH for size in given):
        raise argparse.ArgumentTypeError(f"{text!r}: expected sizes from 1 to {LARGEST_BATCH}")
    return tuple(sorted(set(given)))


def parse_mebibytes(text: str) -> int:
    """Convert a number of MiB to bytes."""
    try:
        size = int(text)
    except ValueError:
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of MiB, as 4096")
    return size * 2**20
