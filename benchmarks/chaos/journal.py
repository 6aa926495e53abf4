"""The journal of a chaos run: a JSON object a line, and the counts by which its verdict is made."""

import json
import time
from collections import Counter
from typing import Any, TextIO

from benchmarks.harness import write_result

MAX_LISTED = 200
"""Findings that are written out; all are counted."""


class Journal:
    """Writes events, counts what was checked, and keeps the findings."""

    def __init__(self, file: TextIO) -> None:
        self.checked: Counter[str] = Counter()
        """Checks that were made, by kind."""
        self.findings: Counter[str] = Counter()
        """Promises that were broken, by kind."""
        self.examples: list[str] = []
        self._file = file
        self._began = time.monotonic()

    def write(self, event: str, **values: Any) -> None:
        """Write one event."""
        at = round(time.monotonic() - self._began, 3)
        self._file.write(json.dumps({"at_seconds": at, "event": event, **values}) + "\n")
        self._file.flush()

    def count(self, kind: str, count: int = 1) -> None:
        """Count checks that were made."""
        self.checked[kind] += count

    def report(self, kind: str, message: str) -> None:
        """Record a broken promise."""
        self.findings[kind] += 1
        if self.findings[kind] <= MAX_LISTED:
            self.examples.append(f"{kind}: {message}")
            self.write("finding", kind=kind, message=message[:2_000])

    def print_examples(self) -> None:
        """Print the first findings."""
        for example in self.examples[:20]:
            print(f"FINDING {example[:500]}")


def end_run(journal: Journal, result: dict[str, Any], name: str | None) -> int:
    """Print a result and the findings, write it under a name if there is one, and return the exit status."""
    print(json.dumps(result, indent=1))
    journal.print_examples()
    if name:
        write_result(name, result)
    return 3 if journal.findings else 0
