"""The plan of the version that a cluster serves, one key of the table `control` that all nodes follow, and reports.

Decides nothing. The plan changes by compare-and-set; each node writes its own report.
"""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec
import structlog

from streamd.cluster.log import Entry, LogAwayError, SharedTable, Unsubscribe, WrongSequenceError
from streamd.core.cluster.rollout import ChangePhase, NodeReport, VersionPlan, VersionRef
from streamd.core.errors import UnavailableError

log = structlog.get_logger(__name__)

PLAN_KEY = "versions"
REPORT_KEY = "version"


class VersionPlans:
    """The plan and the reports as one node reads and writes them.

    `note_plan` is called with each plan that is read. `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        control: SharedTable,
        node: str,
        note_plan: Callable[[VersionPlan], None],
        *,
        clock: Callable[[], float],
    ) -> None:
        self.reports: dict[str, NodeReport] = {}
        """The newest report of each node."""
        self.plan: VersionPlan | None = None
        """The newest plan; `None` until it is read."""
        self.news = asyncio.Event()
        """Set with each plan that is read."""
        self._control = control
        self._node = node
        self._note_plan = note_plan
        self._clock = clock
        self._revision = 0
        self._phase_since = 0.0
        self._reported: NodeReport | None = None
        self._unsubscribe: Unsubscribe | None = None

    async def follow(self, serving: VersionRef) -> None:
        """Read the table from now on; the first node of a cluster makes the plan. Raises `LogAwayError`."""
        with contextlib.suppress(WrongSequenceError):  # it is not the first node
            await self._control.put(PLAN_KEY, _encode(VersionPlan(serving=serving)), expected_revision=0)
        self._unsubscribe = await self._control.watch(self._see)

    async def close(self) -> None:
        """Read no more."""
        if self._unsubscribe is not None:
            with contextlib.suppress(LogAwayError):
                await self._unsubscribe()
            self._unsubscribe = None

    # ------------------------------------------------------------ reading
    def _see(self, key: str, entry: Entry | None) -> None:
        name, _, node = key.partition(".")
        if entry is None:
            self._note_deleted(key)
            return
        try:
            if key == PLAN_KEY:
                self._see_plan(msgspec.msgpack.decode(entry.value, type=VersionPlan), entry.revision)
            elif name == REPORT_KEY:
                self.reports[node] = msgspec.msgpack.decode(entry.value, type=NodeReport)
        except (msgspec.DecodeError, ValueError) as exc:
            log.error("version_plan_unreadable", key=key, reason=str(exc))

    def _note_deleted(self, key: str) -> None:
        """Expect the keys of a new table, which counts from the beginning; what serves goes on meanwhile."""
        if key == PLAN_KEY:
            self._revision = 0
        elif key == f"{REPORT_KEY}.{self._node}":
            self._reported = None

    def _see_plan(self, plan: VersionPlan, revision: int) -> None:
        if revision <= self._revision:
            return  # a lost connection brings all keys again
        former = self.plan
        if former is None or _name_phase(former) != _name_phase(plan):
            self._phase_since = self._clock()
        self.plan, self._revision = plan, revision
        self._note_plan(plan)
        if former != plan:
            log.info("version_plan", serving=plan.serving.name, change=None if plan.change is None else plan.change.id)
        self.news.set()

    async def wait_news(self, seconds: float) -> None:
        """Wait for the next plan, or for some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.news.wait()
        self.news.clear()

    def require_plan(self) -> VersionPlan:
        """Return the newest plan; raises `UnavailableError` if none was read yet."""
        if self.plan is None:
            raise UnavailableError("this node joins its cluster, and does not know its version yet")
        return self.plan

    @property
    def seconds_in_phase(self) -> float:
        """The time for which this node has seen the change in its phase."""
        return self._clock() - self._phase_since

    # ------------------------------------------------------------ writing
    async def put_plan(self, plan: VersionPlan) -> None:
        """Set the plan in place of the one that this node knows; raises `WrongSequenceError`, `LogAwayError`."""
        revision = await self._control.put(PLAN_KEY, _encode(plan), expected_revision=self._revision)
        self._see_plan(plan, revision)

    async def put_report(self, report: NodeReport) -> None:
        """Set the report of this node, if it says something new; raises `LogAwayError`."""
        if report != self._reported:
            await self._control.put(f"{REPORT_KEY}.{self._node}", _encode(report))
            self._reported = report


def _encode(value: VersionPlan | NodeReport) -> bytes:
    return msgspec.msgpack.encode(value)


def _name_phase(plan: VersionPlan) -> tuple[str, ChangePhase] | None:
    return None if plan.change is None else (plan.change.id, plan.change.phase)
