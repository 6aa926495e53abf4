"""Runners lent to one caller at a time: whoever needs one waits until one is idle.

A runner that is lost is closed and never lent again; the batch that it held runs on another.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from streamd.core.errors import BatchFailedError, LaneLostError
from streamd.inference.runner import Runner

Used = TypeVar("Used")


class RunnerPool:
    """Owns the runners; every method may be called by any thread."""

    def __init__(self, runners: Sequence[Runner]) -> None:
        self._idle = list(runners)
        self._well = len(runners)
        self._lost: LaneLostError | None = None
        self._closed = False
        self._changed = threading.Condition()

    @property
    def healthy(self) -> int:
        """The number of runners that are not lost."""
        return self._well

    def use(self, work: Callable[[Runner], Used]) -> Used:
        """Do some work with a runner that is idle, and where it is lost meanwhile do it with another.

        Raises what the work raises, and `LaneLostError` once no runner is left.
        """
        while True:
            try:
                with self._lend() as runner:
                    return work(runner)
            except LaneLostError:
                if not self._well:
                    raise

    def close(self) -> None:
        """Close what is idle now, and the others as they come back; twice is harmless."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for runner in idle:
            runner.close()

    @contextmanager
    def _lend(self) -> Iterator[Runner]:
        """Lend a runner; one that meets `LaneLostError` is not lent again."""
        runner = self._take()
        try:
            yield runner
        except LaneLostError as exc:
            self._drop(runner, exc)
            raise
        except BaseException:
            self._give_back(runner)
            raise
        self._give_back(runner)

    def _take(self) -> Runner:
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._closed or not self._well)
            if self._closed:
                raise BatchFailedError("the engine is closed")
            if not self._well:
                raise LaneLostError(f"no lane is left: {self._lost}; open the engine again") from self._lost
            return self._idle.pop()

    def _give_back(self, runner: Runner) -> None:
        with self._changed:
            if not self._closed:
                self._idle.append(runner)
                self._changed.notify()
                return
        runner.close()

    def _drop(self, runner: Runner, error: LaneLostError) -> None:
        with self._changed:
            self._well -= 1
            self._lost = error
            self._changed.notify_all()
        runner.close()
