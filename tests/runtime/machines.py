"""What the state machines over a pipeline have in common: what the scheduler and the observer ask of them."""

from collections.abc import Iterable

import numpy as np

from streamd.device.lane import Float32
from streamd.runtime.deployment import Departures
from streamd.runtime.state import State
from streamd.runtime.worker import LaneWorker
from tests.core.contracts import make_contract
from tests.runtime.states import whole

CONTRACT = make_contract()


class Fleet:
    """Servers whose rows all hold one value, so that a window can be told by it."""

    state: State

    def snapshot(self, slot: int) -> tuple[int, int, int]:
        """As the scheduler asks for it."""
        windows = self.state.windows
        return self.state.directory.generations[slot], windows.newest(slot), windows.have[slot]

    def batch_done(self, windows: int, queue_delay_seconds: float, inference_seconds: float) -> None:
        """As a pipeline tells its observer."""
        assert queue_delay_seconds >= 0

    def window(self, value: float) -> Float32:
        """The window of a server all of whose rows were `whole(value)`."""
        row = np.array(list(whole(value).values()), np.float32)
        return np.broadcast_to(row, (CONTRACT.context_length, len(row)))


def wait_for_ends(departures: Departures, stuck: Iterable[LaneWorker]) -> None:
    """Wait for the threads of lanes that are out and run nothing."""
    for worker in departures.leaving - set(stuck):
        assert worker.join(60.0), "a lane that runs nothing ends at once"
