"""Kills a process at every single step of a change on disk, with SIGKILL: run as a module by `test_kill.py`.

Arguments: a folder of versions, where its copies go, and the change. The k-th copy is left as a process left it that
was killed before its k-th call of the system, or in the middle of it where it writes.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamd.repository.collection import collect_garbage
from streamd.repository.promotion import Promoter
from streamd.repository.versions import EngineRepository

CALLS = ((os, ("open", "write", "fsync", "replace", "rename", "close", "unlink", "rmdir")), (fcntl, ("flock",)))
"""All that these changes ask of the system, reading apart."""

CHANGES: dict[str, Callable[[EngineRepository], object]] = {
    "promote": lambda repository: Promoter(repository).promote("c_20250103_000000", "ann", "better", 1.0),
    "rollback": lambda repository: Promoter(repository).rollback("ann", "worse", 1.0),
    "gc": lambda repository: collect_garbage(repository, 1, now=1e12),
}


def main(source: Path, copies: Path, change: str) -> list[str]:
    """Return the name of the call at which each copy's process was killed; the last copy's was not."""
    calls: list[str] = []
    while True:
        copy = copies / str(len(calls))
        shutil.copytree(source, copy)
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            _die_at(len(calls), tell)
            CHANGES[change](EngineRepository(copy))
            os._exit(0)
        os.close(tell)
        _, status = os.waitpid(child, 0)
        with os.fdopen(told) as reader:
            calls.append(reader.read())
        if not os.WIFSIGNALED(status):
            assert status == 0, f"the change failed: {status}"
            return calls


def _die_at(step: int, tell: int) -> None:
    """Let this process be killed at its `step`-th call, which it tells first."""
    left, write = [step], os.write

    def killed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **options: Any) -> Any:
            if left[0] == 0:
                write(tell, name.encode())
                if name == "write":
                    write(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*args, **options)

        return instead

    for module, names in CALLS:
        for name in names:
            setattr(module, name, killed(name, getattr(module, name)))


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]), sys.stdout)
