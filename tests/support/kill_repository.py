"""Kills a process at every single step of a change on disk, with SIGKILL: run as a module by `test_kill.py`.

Arguments: a folder of versions, where its copies go, and the change. The k-th copy is left as a process left it that
was killed before its k-th call of the system, or in the middle of it where it writes.
"""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from streamd.repository.collection import collect_garbage
from streamd.repository.promotion import Promoter
from streamd.repository.versions import EngineRepository
from tests.support.kill_at_calls import kill_at_each_call

CALLS = ((os, ("open", "write", "fsync", "replace", "rename", "close", "unlink", "rmdir")), (fcntl, ("flock",)))
"""All that these changes ask of the system, reading apart."""

CHANGES: dict[str, Callable[[EngineRepository], object]] = {
    "promote": lambda repository: Promoter(repository).promote("c_20250103_000000", "ann", "better", 1.0),
    "rollback": lambda repository: Promoter(repository).rollback("ann", "worse", 1.0),
    "gc": lambda repository: collect_garbage(repository, 1, now=1e12),
}


def main(source: Path, copies: Path, change: str) -> list[str]:
    """Return the name of the call at which each copy's process was killed; the last copy's was not."""

    def prepare(step: int) -> Callable[[], object]:
        copy = copies / str(step)
        shutil.copytree(source, copy)
        return lambda: CHANGES[change](EngineRepository(copy))

    return kill_at_each_call(prepare, CALLS)


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]), sys.stdout)
