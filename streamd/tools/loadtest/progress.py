"""A progress line made from the ledger's counts: redrawn on a terminal, printed every ten seconds elsewhere.

Reads the ledger and never writes to it.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TextIO

from streamd.tools.loadtest.ledger import Ledger, LedgerCount
from streamd.tools.loadtest.terminal import Terminal, format_thousands

LIVE_SECONDS = 0.2
LOG_SECONDS = 10.0
BAR = 24


@dataclass(slots=True)
class ProgressLine:
    """The progress of one stretch after another."""

    stream: TextIO
    terminal: Terminal
    ledger: Ledger
    quiet: bool = False

    @contextlib.asynccontextmanager
    async def show_stretch(self, title: str, samples: int, tail: Callable[[], str] = str) -> AsyncIterator[None]:
        """Draw the progress towards `samples` sent samples while the block runs; `tail` returns text to append."""
        if self.quiet:
            yield
            return
        began = time.monotonic()
        before = self.ledger.sum_count(LedgerCount.SAMPLES_SENT), self.ledger.sum_count(LedgerCount.FORECASTS)
        drawing = asyncio.create_task(self._draw_repeatedly(title, samples, before, began, tail))
        try:
            yield
        finally:
            drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing
            self._print_line(self._format_line(title, samples, before, began, tail), last=True)

    async def _draw_repeatedly(
        self, title: str, samples: int, before: tuple[int, int], began: float, tail: Callable[[], str]
    ) -> None:
        while True:
            if self.terminal.is_interactive:
                self._print_line(self._format_line(title, samples, before, began, tail), last=False)
            await asyncio.sleep(LIVE_SECONDS if self.terminal.is_interactive else LOG_SECONDS)
            if not self.terminal.is_interactive:
                self._print_line(self._format_line(title, samples, before, began, tail), last=True)

    def _format_line(
        self, title: str, samples: int, before: tuple[int, int], began: float, tail: Callable[[], str]
    ) -> str:
        sent = self.ledger.sum_count(LedgerCount.SAMPLES_SENT) - before[0]
        forecasts = self.ledger.sum_count(LedgerCount.FORECASTS) - before[1]
        seconds = max(time.monotonic() - began, 1e-9)
        parts = [f"{title:<8}"]
        if samples:
            parts += [
                self.terminal.draw_bar(sent / samples, BAR),
                f"{format_thousands(sent)}/{format_thousands(samples)} samples",
                f"{format_thousands(sent / seconds)}/s",
            ]
        parts += [f"{format_thousands(forecasts)} forecasts", tail()]
        return "  ".join(part for part in parts if part)

    def _print_line(self, line: str, last: bool) -> None:
        begin, end = ("\r\x1b[K", "\n" if last else "") if self.terminal.is_interactive else ("", "\n")
        print(f"{begin}{line}", end=end, file=self.stream, flush=True)


@dataclass(slots=True)
class StatusLine:
    """A line of text that replaces the one before; elsewhere than on a terminal it is printed every ten seconds."""

    stream: TextIO
    terminal: Terminal
    quiet: bool = False
    _shown_at: float = -math.inf

    def show(self, text: str) -> None:
        """Show a text, unless another one was shown just before."""
        now = time.monotonic()
        if self.quiet or now - self._shown_at < (LIVE_SECONDS if self.terminal.is_interactive else LOG_SECONDS):
            return
        self._shown_at = now
        if self.terminal.is_interactive:
            print(f"\r\x1b[K{text[: self.terminal.width - 1]}", end="", file=self.stream, flush=True)
        else:
            print(text, file=self.stream, flush=True)

    def clear(self) -> None:
        """Remove the line from a terminal."""
        if self.terminal.is_interactive and not self.quiet:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
