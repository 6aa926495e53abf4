"""Work in steps, done at once: for tests of what does such work, without a loop."""

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


def finish_all(steps: Generator[None, None, T]) -> T:
    """Return the result of work in steps."""
    return finish_and_count(steps)[0]


def finish_and_count(steps: Generator[None, None, T]) -> tuple[T, int]:
    """Return the result of work in steps, and the number of turns that it gave to the event loop."""
    turns = 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result, turns
        turns += 1
