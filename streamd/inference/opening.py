"""Opens several lanes or runners, or none of them."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Protocol, TypeVar


class Closable(Protocol):
    """Holds something of a device."""

    def close(self) -> None:
        """Give it back."""
        ...


T = TypeVar("T", bound=Closable)


def all_or_none(makers: Iterable[Callable[[], T]]) -> list[T]:
    """Call each maker; what the first ones hold is given back where a later one finds no room."""
    opened: list[T] = []
    with ExitStack() as made:
        for make in makers:
            opened.append(make())
            made.callback(opened[-1].close)
        made.pop_all()
    return opened
