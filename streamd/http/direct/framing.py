"""Cuts what a connection receives into plain requests. Decides nothing about them; no I/O."""

from typing import NamedTuple

from streamd.http.direct.heads import PlainHead, PlainHeads


class PlainRequest(NamedTuple):
    """A complete request, as it was received."""

    head: PlainHead
    message: bytes

    @property
    def body(self) -> memoryview:
        """The body: a view."""
        return memoryview(self.message)[self.head.head_bytes :]


class Framer:
    """The bytes of a connection that do not make up a request yet."""

    __slots__ = ("_heads", "_pieces", "_size", "_wanted", "is_plain")

    def __init__(self, heads: PlainHeads) -> None:
        self._heads = heads
        self._pieces: list[bytes] = []
        self._size = 0
        self._wanted = 0
        """The bytes of which nothing can be made before they have come."""
        self.is_plain = True
        """Whether what it holds is the begin of a plain request, or nothing."""

    @property
    def held_bytes(self) -> int:
        """The number of bytes that it holds."""
        return self._size

    def add(self, data: bytes) -> None:
        """Hold more bytes."""
        self._pieces.append(data)
        self._size += len(data)

    def take_all(self) -> bytes:
        """Return all that it holds, which it forgets."""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = self._wanted = 0
        return data

    def take_request(self) -> PlainRequest | None:
        """Return the next request, which it forgets; `None` if it is not complete, or not plain (`is_plain`)."""
        if self._size < self._wanted or not self._size:
            return None
        data = self.take_all()
        head = self._heads.find(data)
        if head is None:
            self.is_plain = self._heads.may_become_plain(data)
            self.add(data)
            return None
        size = head.head_bytes + head.body_bytes
        if len(data) < size:
            self.add(data)
            self._wanted = size
            return None
        if len(data) > size:
            self.add(data[size:])
            data = data[:size]
        return PlainRequest(head, data)
