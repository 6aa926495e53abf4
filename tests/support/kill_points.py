"""Which of the moments of a property a process is killed at: every one under `EXHAUSTIVE=1`, else some of each example.

A property has hundreds of examples, and each chooses other moments, so that together they come to every kind of moment.
"""

import os
import random
from collections.abc import Sequence
from typing import TypeVar

EXHAUSTIVE = bool(os.environ.get("EXHAUSTIVE"))
"""Whether everything is tried, which takes minutes; otherwise a choice of it."""
COUNT = 8

Moment = TypeVar("Moment")


def choose_kills(moments: Sequence[Moment], seed: bytes, *, count: int = COUNT) -> list[Moment]:
    """Return at most `count` moments in their order, the first and the last among them; the seed draws the others.

    The same seed draws the same ones.
    """
    if EXHAUSTIVE or len(moments) <= count:
        return list(moments)
    inner = random.Random(seed).sample(range(1, len(moments) - 1), count - 2)
    return [moments[place] for place in (0, *sorted(inner), len(moments) - 1)]
