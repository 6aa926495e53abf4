"""Progress of long jobs: a bar on a terminal if tqdm is installed, else plain lines, and nothing when quiet.

Writes to standard error, since standard output is for results.
"""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

LINE_EVERY_SECONDS = 5.0


class Progress:
    """Reports one job at a time on `stream` (standard error by default)."""

    def __init__(
        self, *, quiet: bool = False, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.quiet = quiet
        self.stream = stream or sys.stderr
        self._now = now
        self._bar_class = None if quiet or not self.stream.isatty() else _import_tqdm()

    def start_job(self, text: str, total: int) -> "ProgressJob":
        """Begin a job of `total` steps; use it as a context, or close it."""
        if self._bar_class is not None:
            return ProgressJob(
                self, text, total, self._bar_class(total=total, desc=text, file=self.stream, leave=False)
            )
        return ProgressJob(self, text, total, None)

    def print_line(self, text: str) -> None:
        """Print a line; a bar is drawn again below it."""
        if self.quiet:
            return
        if self._bar_class is not None:
            self._bar_class.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)

    def now(self) -> float:
        """Read the clock, in seconds; it never goes back."""
        return self._now()


class ProgressJob:
    """A job in progress."""

    def __init__(self, progress: Progress, text: str, total: int, bar: Any) -> None:
        self._progress, self._text, self._total, self._bar = progress, text, total, bar
        self._done = 0
        self._began = self._printed = progress.now()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def advance_to(self, done: int, total: int | None = None) -> None:
        """Report how many steps are done; a new `total` replaces the old one. A smaller number changes nothing."""
        self._total = total if total is not None else self._total
        gained, self._done = max(0, done - self._done), max(done, self._done)
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.update(gained)
            return
        now = self._progress.now()
        if now - self._printed >= LINE_EVERY_SECONDS:
            self._printed = now
            self._progress.print_line(f"{self._text}: {self._done} of {self._total}, {now - self._began:.0f} s")

    def close(self) -> None:
        """End the job; a second call is harmless."""
        if self._bar is not None:
            self._bar.close()


def _import_tqdm() -> Any:
    """Return tqdm's class, or None if it is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
