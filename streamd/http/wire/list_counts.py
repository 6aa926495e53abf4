"""Counts the elements of the lists of a JSON body before any of them is built. Knows no message and raises nothing.

A decoder checks the length of a list when it has built all of it: a megabyte of `{},` are 350,000 objects and take
0.1 s. To count them takes 3 ms, in steps.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_PIECE_BYTES = 2**17
"""Bytes that are counted at once: 1 ms, and 10 ms if all of them are escapes."""

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_OTHERS = bytes(set(range(256)) - set(b'{}[],"'))
"""What says nothing about the structure, unless it is an escape."""

_OPEN, _CLOSE = np.zeros(256, np.int8), np.zeros(256, np.int8)
_OPEN[list(b"{[")] = 1
_CLOSE[list(b"}]")] = 1


@dataclass(slots=True)
class ListCounts:
    """Commas of a JSON body up to some place: a list of `n` elements has `n - 1`."""

    depth: int = 0
    is_in_string: bool = False
    is_in_list: bool = False
    """Whether the latest container at depth 3 is a list."""
    commas_at_2: int = 0
    """In the lists and objects of the outermost object, such as `samples`."""
    list_commas_at_3: int = 0
    """In the lists of those, such as the servers of `columns`."""

    def add_piece(self, data: bytes) -> None:
        """Count a piece that neither begins nor ends in an escape."""
        if b"\\" in data:
            data = _ESCAPE.sub(b"", data)
        # Without its content a string is two quotes, which most often touch and say no more.
        data = data.translate(None, _OTHERS).replace(b'""', b"")
        if not data:
            return
        marks = np.frombuffer(data, np.uint8)
        is_plain = self._find_plain(marks, data)
        opens = _OPEN[marks] * is_plain
        depths = np.cumsum(opens - _CLOSE[marks] * is_plain, dtype=np.int32) + self.depth
        commas = (marks == ord(",")) & is_plain
        self.commas_at_2 += int(np.count_nonzero(commas & (depths == 2)))
        self._count_lists_at_3(marks, (opens > 0) & (depths == 3), commas & (depths == 3))
        self.depth = int(depths[-1])

    def _find_plain(self, marks: npt.NDArray[np.uint8], data: bytes) -> npt.NDArray[np.bool_]:
        """Return which marks are in no string."""
        quotes = data.count(b'"')
        if not quotes:
            return np.full(len(marks), not self.is_in_string)
        is_plain: npt.NDArray[np.bool_] = (np.cumsum(marks == ord('"')) + self.is_in_string) % 2 == 0
        self.is_in_string ^= bool(quotes % 2)
        return is_plain

    def _count_lists_at_3(
        self, marks: npt.NDArray[np.uint8], opens: npt.NDArray[np.bool_], commas: npt.NDArray[np.bool_]
    ) -> None:
        places = np.flatnonzero(opens)
        kinds = np.concatenate(([self.is_in_list], marks[places] == ord("[")))
        containers = np.searchsorted(places, np.flatnonzero(commas))
        self.list_commas_at_3 += int(np.count_nonzero(kinds[containers]))
        self.is_in_list = bool(kinds[-1])


def count_commas_of_lists(data: bytes) -> Iterator[ListCounts]:
    """Count piece by piece, so that other work can be done in between; yields the counts so far."""
    counts, begin = ListCounts(), 0
    while begin < len(data):
        end = _find_end(data, begin)
        counts.add_piece(data[begin:end])
        begin = end
        yield counts


def _find_end(data: bytes, begin: int) -> int:
    """Return where a piece ends: before backslashes, of which the last may belong to what follows."""
    end = begin + _PIECE_BYTES
    if end >= len(data):
        return len(data)
    kept = len(data[begin:end].rstrip(b"\\"))
    return begin + kept if kept else end  # nothing but backslashes: an even number of them, so whole escapes
