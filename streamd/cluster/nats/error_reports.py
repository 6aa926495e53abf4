"""Reports errors that come again and again: each once in a while, with the number of those between."""

import time
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)

REPORT_SECONDS = 10.0
"""An error is reported once in this time."""

_MAX_KINDS = 100
"""Different errors that are remembered."""


@dataclass
class ErrorReports:
    """Errors by event and text: when each was reported last, and how many came since."""

    last: dict[str, float] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)

    def report(self, event: str, error: object) -> None:
        """Log an error, or count it if the same one was logged a moment ago."""
        text = str(error) or type(error).__name__
        kind = f"{event} {text}"
        now = time.monotonic()
        if now < self.last.get(kind, -REPORT_SECONDS) + REPORT_SECONDS:
            self.missed[kind] = self.missed.get(kind, 0) + 1
            return
        if len(self.last) >= _MAX_KINDS:
            self.last.clear()
            self.missed.clear()
        self.last[kind] = now
        log.warning(event, error=text, before=self.missed.pop(kind, 0))
