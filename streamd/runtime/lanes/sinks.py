"""Sinks of a pipeline's results: stored and published, returned to the version that serves, or only scored.

Called on the event loop after each batch; nothing here waits.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import structlog

from streamd.core.arrays import Float32, Numbers, Slots, Times
from streamd.core.errors import InferenceError
from streamd.core.scheduling.batches import ServerItem, ServerRows
from streamd.core.state.forecast_seals import Sums
from streamd.core.state.window_columns import NO_STEP
from streamd.runtime.lanes.deployment import DeploymentSpec
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)


class ResultSink(Protocol):
    """The receiver of a pipeline's forecasts of servers. The pipeline itself answers callers' windows."""

    def deliver(self, servers: ServerRows, forecasts: Float32, checks: Sums, spec: DeploymentSpec) -> None:
        """Handle the forecasts of servers, `(n, targets, horizon, quantiles)`: views, to be copied if they are stored.

        `checks (n,)` are their checksums.
        """
        ...

    def publish(self, slots: Slots, now: float) -> None:
        """Handle the end of a batch: the forecasts of these slots were delivered (`now`: monotonic seconds)."""
        ...

    def fail(self, item: ServerItem, error: InferenceError) -> None:
        """Handle a server's row that gets no forecast."""
        ...

    def lanes_exhausted(self) -> None:
        """Handle that no lane is left for what waits; called at each dispatch without a lane."""
        ...


class ForecastPosted(Protocol):
    """A listener for all forecasts (accuracy, the router)."""

    def forecasts_posted(self, slots: Slots, steps: Numbers, model: bytes, forecasts: Float32) -> None:
        """Handle the forecasts of a batch, `(n, targets, horizon, quantiles)`: views, to be copied if they are stored.

        `slots (n,)` are distinct; `steps (n,)` are those of the newest rows that the forecasts were made from.
        """
        ...


class ForecastsPublished(Protocol):
    """The publisher of new forecasts (the hub)."""

    def publish(self, slots: Slots, now: float) -> None:
        """Notify subscribers that these slots have new forecasts on the board (`now`: monotonic seconds)."""
        ...


class BoardSink:
    """The sink of the version that serves: stores forecasts on the board and publishes them."""

    def __init__(
        self,
        state: State,
        subscribers: ForecastsPublished,
        posted: Sequence[ForecastPosted],
        received: Times | None = None,
    ) -> None:
        self.received: Times = np.full(state.directory.capacity, np.nan) if received is None else received
        """By slot: when the sample arrived that made its latest forecast due (monotonic seconds), or NaN."""
        self._state = state
        self._subscribers = subscribers
        self._posted = posted

    def deliver(self, servers: ServerRows, forecasts: Float32, checks: Sums, spec: DeploymentSpec) -> None:
        """Store forecasts."""
        self.store(servers, forecasts, checks, spec.model)

    def store(self, servers: ServerRows, forecasts: Float32, checks: Sums, model: bytes) -> None:
        """Store forecasts of the version called `model`, as `deliver` does."""
        slots, steps = servers.slots, servers.steps
        self._state.board.post_many(slots, steps, servers.contexts, model, forecasts, checks)
        self.received[slots] = servers.since
        for each in self._posted:
            each.forecasts_posted(slots, steps, model, forecasts)

    def publish(self, slots: Slots, now: float) -> None:
        """Publish a batch's forecasts to the subscribers."""
        self._subscribers.publish(slots, now)

    def fail(self, item: ServerItem, error: InferenceError) -> None:
        """Log the server and the error."""
        server = self._state.directory.names[item.slot]
        log.error("forecast_failed", server=server, step=item.step, code=error.code, error=str(error))

    def lanes_exhausted(self) -> None:
        """Do nothing: waiting windows run on rebuilt lanes."""

    def forget(self, slot: int) -> None:
        """Forget a slot that gets another server."""
        self.received[slot] = np.nan


class RowsReturned(Protocol):
    """The owner of rows that a candidate returns to the version that serves."""

    def return_failed(self, item: ServerItem) -> None:
        """Return a row that failed here."""
        ...

    def return_waiting(self) -> None:
        """Return every row that waits here."""
        ...


class CanarySink:
    """The sink of a canary: delivers like the version that serves, and returns rows that the canary can't forecast."""

    def __init__(self, board: ResultSink, returned: RowsReturned) -> None:
        self._board = board
        self._returned = returned

    def deliver(self, servers: ServerRows, forecasts: Float32, checks: Sums, spec: DeploymentSpec) -> None:
        """Store forecasts."""
        self._board.deliver(servers, forecasts, checks, spec)

    def publish(self, slots: Slots, now: float) -> None:
        """Publish a batch's forecasts to the subscribers."""
        self._board.publish(slots, now)

    def fail(self, item: ServerItem, error: InferenceError) -> None:
        """Return the row to the version that serves."""
        log.warning("candidate_failed", step=item.step, code=error.code, error=str(error))
        self._returned.return_failed(item)

    def lanes_exhausted(self) -> None:
        """Return all waiting rows to the version that serves."""
        self._returned.return_waiting()


class ShadowSink:
    """The sink of a shadow: forecasts are scored and not delivered."""

    def __init__(self, capacity: int, posted: Sequence[ForecastPosted], returned: RowsReturned) -> None:
        self.last_steps: Numbers = np.full(capacity, NO_STEP, np.int64)
        """By slot: the step of the newest forecast that the shadow made."""
        self._posted = posted
        self._returned = returned

    def deliver(self, servers: ServerRows, forecasts: Float32, checks: Sums, spec: DeploymentSpec) -> None:
        """Pass forecasts to the scorers."""
        self.last_steps[servers.slots] = servers.steps
        for each in self._posted:
            each.forecasts_posted(servers.slots, servers.steps, spec.model, forecasts)

    def read_last_steps(self, slots: Slots) -> Numbers:
        """Return the step of the newest forecast that the shadow made of each slot, or `NO_STEP`, `(n,)`."""
        return self.last_steps[slots]

    def publish(self, slots: Slots, now: float) -> None:
        """Do nothing: subscribers do not get a shadow's forecasts."""

    def fail(self, item: ServerItem, error: InferenceError) -> None:
        """Log the error; the version that serves has forecast the server."""
        log.warning("candidate_failed", step=item.step, code=error.code, error=str(error))

    def lanes_exhausted(self) -> None:
        """Drop all waiting rows."""
        self._returned.return_waiting()

    def forget(self, slot: int) -> None:
        """Forget a slot that gets another server."""
        self.last_steps[slot] = NO_STEP
