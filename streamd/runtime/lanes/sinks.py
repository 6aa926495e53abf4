"""What becomes of a pipeline's results: stored and published, handed back, or only scored."""

from collections.abc import Sequence
from typing import Protocol

import structlog

from streamd.core.arrays import Float32
from streamd.core.errors import InferenceError
from streamd.core.scheduling.scheduler import ServerItem
from streamd.core.state.windows import NO_STEP
from streamd.runtime.lanes.deployment import DeploymentSpec
from streamd.runtime.state.state import State

log = structlog.get_logger(__name__)


class ResultSink(Protocol):
    """Takes a pipeline's forecasts of servers. Callers' windows are answered by the pipeline itself."""

    def deliver(self, item: ServerItem, forecast: Float32, spec: DeploymentSpec) -> None:
        """Take a forecast `(targets, horizon, quantiles)`: a view, copied if it is kept."""
        ...

    def publish(self, slots: Sequence[int], now: float) -> None:
        """Learn that a batch's forecasts were delivered, all of these slots (monotonic seconds `now`)."""
        ...

    def fail(self, item: ServerItem, error: InferenceError) -> None:
        """Learn that a server's row has no forecast."""
        ...

    def lanes_exhausted(self) -> None:
        """Learn that no lane is left to run what waits."""
        ...


class ForecastPosted(Protocol):
    """Who wants to know of every forecast."""

    def forecast_posted(self, slot: int, step: int, model: bytes, forecast: Float32) -> None:
        """Look at a forecast `(targets, horizon, quantiles)`: a view, copied if it is kept."""
        ...


class ForecastsPublished(Protocol):
    """Who passes new forecasts on (the hub)."""

    def publish(self, slots: Sequence[int], now: float) -> None:
        """Learn that these slots have new forecasts on the board (monotonic seconds `now`)."""
        ...


class BoardSink:
    """Stores forecasts on the board and publishes them: what the version that serves does."""

    def __init__(self, state: State, subscribers: ForecastsPublished, posted: Sequence[ForecastPosted]) -> None:
        self.received: dict[int, float] = {}
        """By slot: when the sample that made its latest forecast due was received (monotonic seconds)."""
        self._state = state
        self._subscribers = subscribers
        self._posted = posted

    def deliver(self, item: ServerItem, forecast: Float32, spec: DeploymentSpec) -> None:
        """Store a forecast."""
        self._state.board.post(item.slot, item.step, item.context, spec.model, forecast)
        self.received[item.slot] = item.since
        for each in self._posted:
            each.forecast_posted(item.slot, item.step, spec.model, forecast)

    def publish(self, slots: Sequence[int], now: float) -> None:
        """Pass a batch's forecasts on to the subscribers."""
        self._subscribers.publish(slots, now)

    def fail(self, item: ServerItem, error: InferenceError) -> None:
        """Log the server and why it has no forecast."""
        server = self._state.directory.names[item.slot]
        log.error("forecast_failed", server=server, step=item.step, code=error.code, error=str(error))

    def lanes_exhausted(self) -> None:
        """Do nothing: what waits runs on the lanes that are rebuilt."""

    def forget(self, slot: int) -> None:
        """Forget a slot that changes hands."""
        self.received.pop(slot, None)


class RowsReturned(Protocol):
    """Who takes back what a canary could not forecast."""

    def take_failed(self, item: ServerItem) -> None:
        """Take back a row that failed."""
        ...

    def take_waiting(self) -> None:
        """Take back everything that waits."""
        ...


class CanarySink:
    """Delivers as the version that serves would, and gives back what the canary could not forecast."""

    def __init__(self, board: BoardSink, returned: RowsReturned) -> None:
        self._board = board
        self._returned = returned

    def deliver(self, item: ServerItem, forecast: Float32, spec: DeploymentSpec) -> None:
        """Store a forecast."""
        self._board.deliver(item, forecast, spec)

    def publish(self, slots: Sequence[int], now: float) -> None:
        """Pass a batch's forecasts on to the subscribers."""
        self._board.publish(slots, now)

    def fail(self, item: ServerItem, error: InferenceError) -> None:
        """Give the row back to the version that serves."""
        log.warning("candidate_failed", step=item.step, code=error.code, error=str(error))
        self._returned.take_failed(item)

    def lanes_exhausted(self) -> None:
        """Give everything that waits back to the version that serves."""
        self._returned.take_waiting()


class ShadowSink:
    """Delivers nothing: forecasts are only scored."""

    def __init__(self, capacity: int, posted: Sequence[ForecastPosted], returned: RowsReturned) -> None:
        self.last_steps = [NO_STEP] * capacity
        """By slot: the step of the newest forecast that was made here."""
        self._posted = posted
        self._returned = returned

    def deliver(self, item: ServerItem, forecast: Float32, spec: DeploymentSpec) -> None:
        """Show a forecast to those who score it."""
        self.last_steps[item.slot] = item.step
        for each in self._posted:
            each.forecast_posted(item.slot, item.step, spec.model, forecast)

    def publish(self, slots: Sequence[int], now: float) -> None:
        """Do nothing: nobody is to get them."""

    def fail(self, item: ServerItem, error: InferenceError) -> None:
        """Log it: the server has its forecast from the version that serves."""
        log.warning("candidate_failed", step=item.step, code=error.code, error=str(error))

    def lanes_exhausted(self) -> None:
        """Drop everything that waits."""
        self._returned.take_waiting()

    def forget(self, slot: int) -> None:
        """Forget a slot that changes hands."""
        self.last_steps[slot] = NO_STEP
