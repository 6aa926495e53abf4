"""Kills processes with SIGKILL, each at another call of the system, to see what they leave on disk."""

import os
import signal
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

Calls = Sequence[tuple[ModuleType, Sequence[str]]]
"""Modules, and the names of their functions that count as calls of the system."""


def kill_at_each_call(prepare: Callable[[int], Callable[[], object]], calls: Calls) -> list[str]:
    """Kill one process after the other, each a call later, until one ends by itself; returns where each was killed.

    `prepare(step)` gives what the process does that is killed at its `step`-th call, or in the middle of it where it
    writes; the last one ended: "".
    """
    killed_at: list[str] = []
    while True:
        change = prepare(len(killed_at))
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            _die_at(len(killed_at), tell, calls)
            change()
            os._exit(0)
        os.close(tell)
        _, status = os.waitpid(child, 0)
        with os.fdopen(told) as reader:
            killed_at.append(reader.read())
        if not os.WIFSIGNALED(status):
            assert status == 0, f"it failed: {status}"
            return killed_at


def _die_at(step: int, tell: int, calls: Calls) -> None:
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

    for module, names in calls:
        for name in names:
            setattr(module, name, killed(name, getattr(module, name)))
