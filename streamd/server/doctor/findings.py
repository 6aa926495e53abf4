"""A finding of a check, and the runner that bounds each check in time.

Knows no check itself. A check that hangs or fails becomes a finding, so that the others still report.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class FindingLevel(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """The daemon runs, but not as well as it could, or not for long."""
    ERROR = "error"
    """The daemon does not start, or does not do what the settings demand."""


@dataclass(frozen=True)
class Finding:
    """A statement of a check about one subject; one that is not ok has a `remedy`."""

    subject: str
    level: FindingLevel
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class DoctorCheck:
    """A check by the name of its subject; `timeout_seconds` bounds it."""

    subject: str
    run: Callable[[], Iterable[Finding]]
    timeout_seconds: float = 10.0


def make_ok(subject: str, text: str) -> Finding:
    """Return a finding that needs no remedy."""
    return Finding(subject, FindingLevel.OK, text)


def make_warning(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding of something that should be better."""
    return Finding(subject, FindingLevel.WARNING, text, remedy)


def make_error(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding of something that prevents the daemon from running as its settings say."""
    return Finding(subject, FindingLevel.ERROR, text, remedy)


def run_checks(checks: Sequence[DoctorCheck]) -> list[Finding]:
    """Run the checks one after another and return their findings in order; none takes longer than its timeout."""
    return [finding for check in checks for finding in _run_bounded(check)]


def _run_bounded(check: DoctorCheck) -> list[Finding]:
    results: queue.SimpleQueue[list[Finding] | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(list(check.run()))
        except Exception as exc:  # a defect of one check must not hide the findings of the others
            results.put(exc)

    threading.Thread(target=run, name=f"check {check.subject}", daemon=True).start()
    try:
        result = results.get(timeout=check.timeout_seconds)
    except queue.Empty:
        text = f"no answer within {check.timeout_seconds:g} s"
        return [
            make_error(check.subject, text, "a file system or a driver hangs: see `dmesg`, and `df` of the folders")
        ]
    if isinstance(result, Exception):
        text = f"the check failed: {type(result).__name__}: {result}"
        return [make_error(check.subject, text, "report it, with this line")]
    return result


def compute_exit_status(findings: Iterable[Finding]) -> int:
    """Return 0 if all is well, 1 if there are warnings, 2 if there are errors."""
    levels = {finding.level for finding in findings}
    if FindingLevel.ERROR in levels:
        return 2
    return 1 if FindingLevel.WARNING in levels else 0
