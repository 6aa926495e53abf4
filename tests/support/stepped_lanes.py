"""What the state machines over a pipeline have in common: what the scheduler and the observer ask of them."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

import numpy as np

from streamd.core.arrays import Float32
from streamd.runtime.lanes.pool import ClosingLanes
from streamd.runtime.lanes.worker import LaneWorker
from streamd.runtime.state.state import State
from tests.support.contracts import make_contract
from tests.support.state_files import whole

CONTRACT = make_contract()


class Fleet:
    """Servers whose rows all hold one value, so that a window can be told by it."""

    state: State
    loop: asyncio.AbstractEventLoop
    unheard: list[dict[str, Any]]
    """What went wrong in the loop's callbacks, where nobody hears it."""
    _turning: "asyncio.Task[None] | None" = None

    def make_loop(self) -> None:
        """Make the loop, which turns only inside of `turn_for`."""
        self.unheard = []
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: self._note(context))

    def turn_for(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Turn the loop until this is done.

        A callback that fails ends it, and the test: what it waits for may never come.
        """
        self._turning = self.loop.create_task(coroutine)
        try:
            self.loop.run_until_complete(self._turning)
        except asyncio.CancelledError:
            if not self.unheard:
                raise
        self._turning = None
        assert self.unheard == []

    def _note(self, context: dict[str, Any]) -> None:
        self.unheard.append(context)
        if self._turning is not None:
            self._turning.cancel()

    def batch_done(self, windows: int, queue_delay_seconds: float, inference_seconds: float) -> None:
        """As a pipeline tells its observer."""
        assert queue_delay_seconds >= 0

    def window(self, value: float) -> Float32:
        """The window of a server all of whose rows were `whole(value)`."""
        row = np.array(list(whole(value).values()), np.float32)
        return np.broadcast_to(row, (CONTRACT.context_length, len(row)))


def wait_for_ends(closing_lanes: ClosingLanes, stuck: Iterable[LaneWorker]) -> None:
    """Wait for the threads of lanes that are out and run nothing."""
    for worker in closing_lanes.workers - set(stuck):
        assert worker.join(60.0), "a lane that runs nothing ends at once"
