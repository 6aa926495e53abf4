"""A progress line on stderr, from the ledger's counts: redrawn on a terminal, now and then elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TextIO

from streamd.tools.loadtest.ledger import Ledger, LedgerCount
from streamd.tools.loadtest.terminal import Terminal, thousands

LIVE_SECONDS = 0.2
LOG_SECONDS = 10.0
BAR = 24


@dataclass(slots=True)
class ProgressLine:
    """Shows one stretch after another."""

    stream: TextIO
    terminal: Terminal
    ledger: Ledger
    quiet: bool = False

    @contextlib.asynccontextmanager
    async def stretch(self, title: str, samples: int, tail: Callable[[], str] = str) -> AsyncIterator[None]:
        """Draw while the block runs, until ``samples`` more are sent; ``tail`` adds words of the caller's."""
        if self.quiet:
            yield
            return
        began = time.monotonic()
        before = self.ledger.total(LedgerCount.SAMPLES_SENT), self.ledger.total(LedgerCount.FORECASTS)
        drawing = asyncio.create_task(self._draw(title, samples, before, began, tail))
        try:
            yield
        finally:
            drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing
            self._show(self._line(title, samples, before, began, tail), last=True)

    async def _draw(
        self, title: str, samples: int, before: tuple[int, int], began: float, tail: Callable[[], str]
    ) -> None:
        while True:
            if self.terminal.live:
                self._show(self._line(title, samples, before, began, tail), last=False)
            await asyncio.sleep(LIVE_SECONDS if self.terminal.live else LOG_SECONDS)
            if not self.terminal.live:
                self._show(self._line(title, samples, before, began, tail), last=True)

    def _line(self, title: str, samples: int, before: tuple[int, int], began: float, tail: Callable[[], str]) -> str:
        sent = self.ledger.total(LedgerCount.SAMPLES_SENT) - before[0]
        forecasts = self.ledger.total(LedgerCount.FORECASTS) - before[1]
        seconds = max(time.monotonic() - began, 1e-9)
        parts = [f"{title:<8}"]
        if samples:
            parts += [
                self.terminal.bar(sent / samples, BAR),
                f"{thousands(sent)}/{thousands(samples)} samples",
                f"{thousands(sent / seconds)}/s",
            ]
        parts += [f"{thousands(forecasts)} forecasts", tail()]
        return "  ".join(part for part in parts if part)

    def _show(self, line: str, last: bool) -> None:
        begin, end = ("\r\x1b[K", "\n" if last else "") if self.terminal.live else ("", "\n")
        print(f"{begin}{line}", end=end, file=self.stream, flush=True)
