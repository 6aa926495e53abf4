"""The options and the result of a replay of captures, as plain data. Sends and reads nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from streamd.tools.loadtest.capture_poster import AnswerKind, CaptureAnswer
from streamd.tools.loadtest.daemon import AgentTotals, DaemonStatus, LatestForecast
from streamd.tools.loadtest.errors import Exit

MAX_KEPT_PROBLEMS = 50
"""Requests whose answer is kept because not all of them was taken; all are counted."""

SHOWN_TARGETS = 3


@dataclass(frozen=True, kw_only=True)
class CaptureSetup:
    """The options of a replay of captures."""

    paths: Sequence[Path]
    url: str
    globs: Sequence[str] = ("*",)
    """The servers to show."""
    targets: Sequence[str] = ()
    """The targets to show; empty for the first ones."""
    close_seconds: float = 15.0
    """The time in which the last row of each server closes: longer than the daemon's `row_grace_seconds`."""
    answer_seconds: float = 30.0
    reconnect_seconds: float = 0.0

    def matches(self, server: str) -> bool:
        """Whether a server is to be shown."""
        return any(fnmatchcase(server, glob) for glob in self.globs)

    def choose_targets(self, targets: Sequence[str], features: Sequence[str]) -> list[str]:
        """Return the targets to show, of those that the model has; by default the first ones that have values."""
        if self.targets:
            return [name for name in self.targets if name in targets]
        return [name for name in targets if name in features][:SHOWN_TARGETS]


@dataclass(frozen=True)
class CaptureProblem:
    """A file or a request that was not taken, or not all of it."""

    name: str
    reason: str
    is_refused: bool


@dataclass(kw_only=True)
class DumpCounts:
    """Counts of the content of dumps."""

    files: int = 0
    samples: int = 0
    series: int = 0
    repeated: int = 0
    """Samples that have the series and the time of another one."""
    skipped: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    """Lines that cannot be read."""
    listed_faults: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class BodyCounts:
    """Counts of the content of captured bodies, as far as it can be read here."""

    files: int = 0
    points: int = 0
    repeated: int = 0
    """Points that have the time of the point before of their series."""
    stamped: int = 0
    """Lines without a timestamp, which count as of now."""


@dataclass(kw_only=True)
class PointCounts:
    """The points that the daemon counts, all senders together, by what became of them."""

    taken: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)

    @classmethod
    def compute(cls, before: AgentTotals, after: AgentTotals) -> "PointCounts":
        """Compute the points that were counted between two statuses."""
        found = cls()
        for totals, sign in ((after, 1), (before, -1)):
            for each in totals.protocols.values():
                found.taken += sign * each.taken
                for counts, given in (
                    (found.ignored, each.ignored),
                    (found.skipped, each.skipped),
                    (found.rejected, each.rejected),
                ):
                    for reason, count in given.items():
                        counts[reason] += sign * count
        return found


@dataclass(frozen=True, kw_only=True)
class ReplayedServer:
    """A server whose window changed, and its latest forecast."""

    name: str
    have: int
    """Rows in its window."""
    new: int
    """Rows among them that are newer than those it had before."""
    origin: float | None
    """Epoch seconds at which its newest row ends; `None` if it has no row yet."""
    features: Sequence[str]
    """Features that have a value in one of its rows."""
    forecast: LatestForecast


@dataclass(kw_only=True)
class CaptureResult:
    """The result of a replay of captures; partial if `is_interrupted` or if the daemon was lost."""

    setup: CaptureSetup
    status: DaemonStatus
    answers: Counter[AnswerKind] = field(default_factory=Counter)
    unreadable: int = 0
    """Files that were not sent."""
    problems: list[CaptureProblem] = field(default_factory=list)
    dump: DumpCounts = field(default_factory=DumpCounts)
    bodies: BodyCounts = field(default_factory=BodyCounts)
    points: PointCounts = field(default_factory=PointCounts)
    first_time: float | None = None
    last_time: float | None = None
    servers: list[ReplayedServer] = field(default_factory=list)
    changed_servers: int = 0
    """Servers whose windows changed, shown or not."""
    post_seconds: float = 0.0
    """The time in which the requests were answered."""
    open_until: float | None = None
    """Epoch seconds at which the newest step ends, if it is not over: its rows are open."""
    lost: str = ""
    """The reason why the daemon no longer answers."""
    is_interrupted: bool = False

    @property
    def requests(self) -> int:
        """Requests that were answered."""
        return self.answers.total()

    def note_answer(self, name: str, answer: CaptureAnswer) -> None:
        """Count an answer, and keep its reason."""
        self.answers[answer.kind] += 1
        self.bodies.stamped += answer.stamped
        if answer.kind is not AnswerKind.TAKEN:
            status = f"{answer.status}: " if answer.status else ""
            self._keep(CaptureProblem(name, f"{status}{answer.text}", answer.kind is AnswerKind.REFUSED))

    def note_unreadable(self, reason: str) -> None:
        """Count a file that cannot be sent; the reason names it."""
        self.unreadable += 1
        self._keep(CaptureProblem("", reason, is_refused=True))

    def _keep(self, problem: CaptureProblem) -> None:
        if len(self.problems) < MAX_KEPT_PROBLEMS:
            self.problems.append(problem)

    @property
    def dropped_problems(self) -> int:
        """Problems that are only counted."""
        found = self.unreadable + self.answers[AnswerKind.REFUSED] + self.answers[AnswerKind.PARTLY]
        return found - len(self.problems)

    def note_times(self, first: float, last: float) -> None:
        """Extend the stretch of time of all points."""
        self.first_time = first if self.first_time is None else min(self.first_time, first)
        self.last_time = last if self.last_time is None else max(self.last_time, last)

    def choose_exit(self) -> Exit:
        """Choose the exit status."""
        if self.is_interrupted:
            return Exit.INTERRUPTED
        if self.lost or self.unreadable or self.answers[AnswerKind.REFUSED]:
            return Exit.LOST
        return Exit.COMPLETE if self.points.taken else Exit.NOTHING
