"""Decides which snapshots of windows an owner writes, and which rows of the log no later owner needs. No I/O.

The servers of a shard are in chunks, and a snapshot has those of one chunk, after all rows up to a message of the log.
The node that takes the shard loads the newest snapshot of each chunk, then the rows from the oldest of these on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

CHUNK_SERVERS = 16
"""The most servers in a chunk."""

CHUNK_BYTES = 512 * 1024
"""About the largest size of a snapshot, in a message of NATS of at most 1 MB."""

MAX_AGE_SECONDS = 1_800.0
"""A chunk that has changed is written after so long: then few rows follow it in the log."""

REWRITE_SECONDS = 43_200.0
"""Also a chunk that has not changed is written after so long: NATS lists all that is replaced behind one that stays."""

MAX_TAIL_SHARE = 0.25
"""The rows in the log may take this share of the bytes of all snapshots before chunks are written earlier."""

MIN_TAIL_BYTES = 2**20
"""So few bytes of rows are read at once; a shard that just began has no snapshots to compare with."""


def count_chunk_servers(server_bytes: int) -> int:
    """Return how many servers a chunk has, of which each takes so many bytes."""
    return min(max(CHUNK_BYTES // max(server_bytes, 1), 1), CHUNK_SERVERS)


@dataclass(kw_only=True)
class Chunk:
    """One chunk of a shard's servers."""

    number: int
    servers: dict[str, None] = field(default_factory=dict)
    """In the order in which they came."""
    covered: int = 0
    """The last message of rows that its snapshot in the log covers, or that changed nothing of it since."""
    covered_bytes: int = 0
    """The bytes of rows of the shard that were applied up to then."""
    written_at: float = 0.0
    """Monotonic seconds."""
    is_stored: bool = False
    """Whether there is a snapshot in the log."""


class SnapshotPlan:
    """The chunks of one shard. `now` is monotonic seconds everywhere."""

    def __init__(self, chunk_servers: int = CHUNK_SERVERS) -> None:
        self.chunks: list[Chunk] = []
        """By number."""
        self.snapshot_bytes = 0
        """The size of the newest snapshots of all chunks."""
        self._sizes: dict[int, int] = {}
        self._chunk_servers = chunk_servers
        self._chunk_of: dict[str, Chunk] = {}
        self._free: dict[int, None] = {}  # the numbers of chunks with space

    # ------------------------------------------------------------ servers
    def add_server(self, server: str, covered: int, covered_bytes: int, now: float) -> None:
        """Put a server into a chunk with space, or into a new one, which is not in the log yet."""
        if server in self._chunk_of:
            return
        if self._free:
            chunk = self.chunks[next(iter(self._free))]
        else:
            chunk = self._append_chunk()
            chunk.covered, chunk.covered_bytes, chunk.written_at = covered, covered_bytes, now
        self._place(server, chunk)

    def remove_server(self, server: str) -> None:
        """Remove a server that was forgotten from its chunk."""
        chunk = self._chunk_of.pop(server, None)
        if chunk is not None:
            del chunk.servers[server]
            self._free[chunk.number] = None

    def follow_servers(self, servers: Iterable[str], covered: int, covered_bytes: int, now: float) -> None:
        """Add the servers that are new, and remove those that are gone; `servers` are all of the shard."""
        present = dict.fromkeys(servers)
        for gone in [server for server in self._chunk_of if server not in present]:
            self.remove_server(gone)
        for server in present:
            self.add_server(server, covered, covered_bytes, now)

    def load_chunk(
        self, number: int, servers: Iterable[str], *, chunks: int, covered: int, size_bytes: int, now: float
    ) -> None:
        """Note a chunk as its snapshot in the log has it, and that there were so many `chunks`, in the log or not.

        A server that is in another chunk already stays there.
        """
        while len(self.chunks) < max(chunks, number + 1):
            self._append_chunk()
        chunk = self.chunks[number]
        chunk.covered, chunk.written_at, chunk.is_stored = covered, now, True
        self._note_size(number, size_bytes)
        for server in servers:
            if server not in self._chunk_of:
                self._place(server, chunk)

    def _append_chunk(self) -> Chunk:
        chunk = Chunk(number=len(self.chunks))
        self.chunks.append(chunk)
        self._free[chunk.number] = None
        return chunk

    def _place(self, server: str, chunk: Chunk) -> None:
        chunk.servers[server] = None
        self._chunk_of[server] = chunk
        if len(chunk.servers) >= self._chunk_servers:
            self._free.pop(chunk.number, None)

    def _note_size(self, number: int, size_bytes: int) -> None:
        self.snapshot_bytes += size_bytes - self._sizes.get(number, 0)
        self._sizes[number] = size_bytes

    # ------------------------------------------------------------ writing
    def note_unchanged(self, chunk: Chunk, covered: int, covered_bytes: int) -> None:
        """Note that no row up to a message changed a chunk since its snapshot, which so covers them."""
        chunk.covered, chunk.covered_bytes = max(chunk.covered, covered), max(chunk.covered_bytes, covered_bytes)

    def note_written(self, chunk: Chunk, *, covered: int, covered_bytes: int, size_bytes: int, now: float) -> None:
        """Note that a snapshot of a chunk is in the log."""
        chunk.covered, chunk.covered_bytes = covered, covered_bytes
        chunk.written_at, chunk.is_stored = now, True
        self._note_size(chunk.number, size_bytes)

    def adopt_chunk(self, number: int, servers: Iterable[str], *, covered: int, size_bytes: int) -> None:
        """Note a snapshot that another node has written, of these servers that are here too.

        They are in this chunk from now on, so that its next snapshot has them: the rows of some may be removed already.
        """
        while len(self.chunks) <= number:
            self._append_chunk()
        chunk = self.chunks[number]
        adopted = dict.fromkeys(servers)
        is_same = chunk.servers.keys() <= adopted.keys()
        for server in adopted:
            self.remove_server(server)
            self._place(server, chunk)
        # Those that only this node has in the chunk are not in that snapshot.
        chunk.covered = covered if is_same else min(chunk.covered, covered)
        chunk.is_stored = False
        self._note_size(number, size_bytes)

    def choose(self, applied_bytes: int, now: float) -> Chunk | None:
        """Return the chunk to write next, `None` if none need be written now.

        `applied_bytes` are those of all rows that were applied so far. It is the chunk whose snapshot is the oldest.
        """
        for chunk in self.chunks:
            if now - chunk.written_at >= REWRITE_SECONDS:
                return chunk
        waiting = [chunk for chunk in self.chunks if chunk.covered_bytes < applied_bytes or not chunk.is_stored]
        if not waiting:
            return None
        oldest = min(waiting, key=lambda chunk: (chunk.covered_bytes, chunk.number))
        tail = applied_bytes - oldest.covered_bytes
        is_long = tail > max(MAX_TAIL_SHARE * self.snapshot_bytes, MIN_TAIL_BYTES)
        return oldest if is_long or now - oldest.written_at >= MAX_AGE_SECONDS else None

    def find_covered(self, applied: int) -> int:
        """Return the message of rows up to which every chunk is covered; all up to `applied` if there is no chunk."""
        return min((chunk.covered for chunk in self.chunks), default=applied)
