"""The owner of a server: the only worker that writes its window. Pure, and the same in every process."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.arrays import Numbers

HANDED_ON = Caller("worker", {Scope.INGEST: ("*",), Scope.ADMIN: ("*",)})
"""The caller of rows that a worker handed on for one who may evict servers; it has checked the caller itself."""


def find_owning_worker(server: str, workers: int) -> int:
    """Return the number of the worker that owns a server; it never changes while the number of workers is the same."""
    return crc32(server.encode("utf-8", "surrogatepass")) % workers


def find_owning_workers(servers: Sequence[str], workers: int) -> Numbers:
    """Return the number of the worker that owns each server, `(n,)`."""
    return np.fromiter((find_owning_worker(server, workers) for server in servers), np.int64, len(servers))
