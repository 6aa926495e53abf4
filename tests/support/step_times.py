"""How long the steps of a decoder take, as a share of a known work in the same run: a machine's speed cancels out."""

import gc
import json
import time
from collections.abc import Callable, Iterable
from functools import cache

RUNS = 3
"""Each work is measured so often, and its best time counts: the others are longer by what else the machine did."""


@cache
def _make_reference() -> bytes:
    items = (b'{"name":"m%d","value":%d.5,"tags":{"host":"h"}}' % (number, number) for number in range(20_000))
    return b"[" + b",".join(items) + b"]"


def _measure_seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def measure_longest_step(make_steps: Callable[[], Iterable[object]], most_steps: int) -> float:
    """Return the longest of the first steps, in units of the time the standard library takes to read 1 MiB of JSON.

    It is the processor time of the thread, which other processes lengthen little. The reference takes about 20 ms.
    """
    gc.collect()
    unit = longest = float("inf")
    for _ in range(RUNS):
        unit = min(unit, _measure_seconds(lambda: json.loads(_make_reference())))
        longest = min(longest, _measure_longest(make_steps(), most_steps))
    return longest / unit


def _measure_longest(steps: Iterable[object], most_steps: int) -> float:
    left, longest = iter(steps), 0.0
    end = object()
    for _ in range(most_steps):
        began = time.thread_time()
        step = next(left, end)
        longest = max(longest, time.thread_time() - began)
        if step is end:
            break
    return longest
