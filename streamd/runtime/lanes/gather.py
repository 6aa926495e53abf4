"""Copies a batch into a lane's inputs: windows, calendars, server ids, and callers' own windows.

Reads the state on the event loop and changes only the inputs; nothing here waits.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32, Numbers, Slots
from streamd.core.calendar import compute_known_future
from streamd.core.contract import ModelContract
from streamd.core.scheduling.batches import Batch
from streamd.inference.lane import Inputs
from streamd.runtime.lanes.requests import fill_requests
from streamd.runtime.lanes.server_numbers import ServerNumbers
from streamd.runtime.state.state import State

FEW_WINDOWS = 6
"""Up to so many windows are gathered faster one by one."""

CALENDARS = 512
"""Cached calendars, 1.5 kB each at 96 steps. Making one takes longer than copying a window, and a fleet needs few."""


def gather(state: State, server_numbers: ServerNumbers, batch: Batch, inputs: Inputs) -> None:
    """Copy a batch's windows into the first rows of a lane's inputs, in the batch's order.

    Quickest if servers of one step are neighbours: their windows begin at the same place and are copied at once.
    """
    servers = batch.servers
    if len(servers):
        _gather_servers(state, servers.slots, server_numbers.read(servers.slots), inputs)
        _fill_calendars(state.contract, servers.steps, inputs.decoder_cont)
    fill_requests(batch.requests, inputs, len(servers))


def _gather_servers(state: State, slots: Slots, numbers: npt.NDArray[np.int32], inputs: Inputs) -> None:
    """Fill one row for each server: the values and statuses of its window, and its number, of `(n,)` or `(1,)`."""
    count, windows = len(slots), state.windows
    values, past, ahead = inputs.encoder_cont[:count], inputs.encoder_cat[:count], inputs.decoder_cat[:count]
    statuses = past[:, :, 1]
    if count > FEW_WINDOWS:
        windows.gather_windows(slots, values, statuses)
    else:
        for row, slot in enumerate(slots.tolist()):
            windows.gather_window(slot, values[row], statuses[row])
    past[:, :, 0] = numbers[:, None]
    ahead[:, :, 0] = numbers[:, None]
    # The newest status of a server is assumed for the whole horizon.
    ahead[:, :, 1] = statuses[:, -1:]


def _fill_calendars(contract: ModelContract, steps: Numbers, calendars: Float32) -> None:
    """Fill the first rows of `calendars (batch, horizon, 4)`, one for each of `steps (n,)`, equal ones at once."""
    ends = [*(np.flatnonzero(steps[1:] != steps[:-1]) + 1).tolist(), len(steps)]
    begin = 0
    for end in ends:
        calendars[begin:end] = make_calendar(int(steps[begin]), contract.horizon, contract.step_seconds)
        begin = end


@lru_cache(maxsize=CALENDARS)
def make_calendar(step: int, horizon: int, step_seconds: int) -> Float32:
    """Return the calendar features of the steps after `step`, `(horizon, 4)`; cached, so do not change it."""
    return compute_known_future(step, horizon, step_seconds)
