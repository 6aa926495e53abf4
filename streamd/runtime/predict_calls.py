"""The calls of `/v1/predict` that are not answered yet: queued, run again if versions changed, ended in time.

A call ends exactly once: with an answer, with an error, or because its caller left. However it ends, its windows need
not run any more. Runs on the event loop; nothing here waits.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy.typing as npt

from streamd.core.contract import ModelContract
from streamd.core.errors import DrainingError, StreamdError, TooBusyError, UnavailableError
from streamd.runtime.pauses import Pauses
from streamd.runtime.predict import CallerWindows, InputReader, Prediction, PredictRequest

Ended = Callable[[Prediction | StreamdError], None]
"""Takes the end of a call: its answer, or its error. It must not raise."""


class RequestQueue(Protocol):
    """The queue of callers' windows (the pipeline)."""

    @property
    def is_ready(self) -> bool:
        """Whether there is a lane."""
        ...

    def add_request(self, request: PredictRequest, windows: int) -> bool:
        """Queue a caller's windows; returns `False` if the queue has no space for all of them."""
        ...

    def drop_request(self, request: PredictRequest) -> None:
        """End a call: its windows are removed from the queue."""
        ...


class PredictCalls:
    """The open calls, the oldest first. All have the same time, so one timer, for the oldest, suffices."""

    def __init__(
        self,
        contract: ModelContract,
        queue: RequestQueue,
        pauses: Pauses,
        *,
        max_waiting: int,
        timeout_seconds: float,
    ) -> None:
        self.is_draining = False
        """Whether new calls are refused because the daemon stops."""
        self._reader = InputReader(contract)
        self._queue = queue
        self._pauses = pauses
        self._max_waiting = max_waiting
        self._timeout_seconds = timeout_seconds
        self._open: dict[PredictRequest, Ended] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, given: Mapping[str, npt.NDArray[Any]], ended: Ended) -> PredictRequest:
        """Queue the windows of a call. `ended` is called once, later, unless the call is cancelled before.

        Raises `InvalidInputError` if the inputs violate the contract, `UnavailableError` if there is no lane, and
        `TooBusyError` if the queue is full; then nothing is queued.
        """
        self._require_lanes()
        return self._begin(self._reader.read(given), ended)

    def begin_windows(self, windows: CallerWindows, ended: Ended) -> PredictRequest:
        """Queue the windows of a call as `begin` does; their form is right.

        If they are not checked, the call may end with `InvalidInputError`.
        """
        self._require_lanes()
        return self._begin(windows, ended)

    def _require_lanes(self) -> None:
        if self.is_draining:
            raise DrainingError("the daemon is stopping")
        if not self._queue.is_ready:
            raise UnavailableError("no lane is ready yet")

    def _begin(self, windows: CallerWindows, ended: Ended) -> PredictRequest:
        request = PredictRequest(windows, self._handle_done, self._pauses.clock())
        self._enqueue(request)
        self._open[request] = ended
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._timeout_seconds, self._end_overdue)
        return request

    def cancel(self, request: PredictRequest) -> None:
        """End a call whose caller left; does nothing if the call has ended."""
        if self._open.pop(request, None) is not None:
            self._queue.drop_request(request)

    def close(self) -> None:
        """Check no more deadlines."""
        if self._timer is not None:
            self._timer.cancel()

    def _enqueue(self, request: PredictRequest) -> None:
        if not self._queue.add_request(request, request.windows):
            raise TooBusyError(f"{self._max_waiting} windows of callers may wait, and as many do")

    def _handle_done(self, request: PredictRequest) -> None:
        """Handle that all windows of a call are answered, or that one failed."""
        if request not in self._open:
            return  # it was cancelled, or its time was over, while its windows ran
        if request.error is not None:
            self._end(request, request.error)
        elif len(request.models) == 1:
            self._end(request, request.make_prediction())
        else:
            self._run_again(request)

    def _run_again(self, request: PredictRequest) -> None:
        """Run a call once more: the version changed in between, and an answer must not mix two versions."""
        request.reset()
        try:
            self._enqueue(request)
        except TooBusyError as error:
            self._end(request, error)

    def _end(self, request: PredictRequest, result: Prediction | StreamdError) -> None:
        ended = self._open.pop(request)
        self._queue.drop_request(request)
        ended(result)

    def _end_overdue(self) -> None:
        """End the calls whose time is over, and look again when that of the next one is."""
        self._timer = None
        for request in list(self._open):
            left = self._timeout_seconds - self._pauses.count_running_seconds(request.since)
            if left > 0:
                self._timer = asyncio.get_running_loop().call_later(max(left, 0.001), self._end_overdue)
                return
            self._end(request, TooBusyError(f"no forecast within {self._timeout_seconds:g} s"))
