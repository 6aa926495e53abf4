"""Kills a process at every step of writing a version, with SIGKILL: run as a module by `test_versions.py`.

Arguments: the version to make another of, and where the folders of versions go. The k-th folder is left as a process
left it that was killed before its k-th call of the system, or in the middle of it where it writes.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from streamd.toolchain.versions import VersionFolder
from tests.toolchain.making import SETTINGS, WHERE, made_plan, source_of

CALLS = ("open", "mkdir", "write", "fsync", "replace", "rename", "chmod", "close")


def main(version: Path, folders: Path) -> list[str]:
    """Return the call at which each process was killed; the last one's was not."""
    source = source_of(version)

    def write(step: int) -> None:
        with VersionFolder(source, folders / str(step), None, ["streamd"]) as folder:
            folder.add(made_plan(), SETTINGS, WHERE)
            folder.finish()

    return kill_at_each_call(lambda step: partial(write, step))


def kill_at_each_call(prepare: Callable[[int], Callable[[], object]]) -> list[str]:
    """Kill one process after the other, each a call later, until one ends by itself; returns where each was killed.

    `prepare(step)` gives what the process does that is killed at its `step`-th call; the last one ended: "".
    """
    calls: list[str] = []
    while True:
        change = prepare(len(calls))
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            _die_at(len(calls), tell)
            change()
            os._exit(0)
        os.close(tell)
        _, status = os.waitpid(child, 0)
        with os.fdopen(told) as reader:
            calls.append(reader.read())
        if not os.WIFSIGNALED(status):
            assert status == 0, f"it failed: {status}"
            return calls


def _die_at(step: int, tell: int) -> None:
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

    for name in CALLS:
        setattr(os, name, killed(name, getattr(os, name)))


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1]), Path(sys.argv[2])), sys.stdout)
