"""Stops a function before each of its lines in turn, as a kill of its process would, to see what it leaves behind."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class KilledError(BaseException):
    """Stands for the death of a process; no handler of errors catches it."""


def run_killed(function: Callable[[], object], lines: int, module: str) -> bool:
    """Run a function until `lines` lines of a module were run; returns whether it was stopped before its end."""
    left = [lines]

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_globals.get("__name__") != module:
            return None
        if event == "line":
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KilledError:
        return True
    finally:
        sys.settrace(former)
    return False
