"""The readers of a fan-out, found by the servers that they chose. Neither posts nor sends."""

from collections.abc import Collection, Iterator
from typing import Generic, Protocol, TypeVar


class IndexedReader(Protocol):
    """A reader that chose servers."""

    @property
    def indexed_names(self) -> Collection[str]:
        """The only names of servers that can be chosen, if they are few; else nothing. It never changes."""
        ...


R = TypeVar("R", bound=IndexedReader)


class ReaderIndex(Generic[R]):
    """All readers: news of a server concerns each of `wide`, and of the others only those that chose its name."""

    def __init__(self) -> None:
        self.wide: set[R] = set()
        """Those that may choose any server; only to be read."""
        self.by_name: dict[str, set[R]] = {}
        """The others, by each name that they chose; only to be read."""
        self._all: set[R] = set()

    def add(self, reader: R) -> None:
        """Add a reader."""
        self._all.add(reader)
        if not reader.indexed_names:
            self.wide.add(reader)
        for name in reader.indexed_names:
            self.by_name.setdefault(name, set()).add(reader)

    def discard(self, reader: R) -> bool:
        """Remove a reader; returns whether it was there."""
        if reader not in self._all:
            return False
        self._all.discard(reader)
        self.wide.discard(reader)
        for name in reader.indexed_names:
            self.by_name[name].discard(reader)
            if not self.by_name[name]:
                del self.by_name[name]
        return True

    def __iter__(self) -> Iterator[R]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
