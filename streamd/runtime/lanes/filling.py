"""Gives a lane the windows of a batch: by the way that the lane has, and whether or not other processes write them."""

from dataclasses import replace
from functools import partial

from streamd.core.scheduling.batches import Batch
from streamd.inference.lane import HostWindows, Lane, ResidentWindows, get_resident
from streamd.runtime.lanes.gather import gather, make_calendar
from streamd.runtime.lanes.requests import fill_requests
from streamd.runtime.lanes.server_numbers import ServerNumbers
from streamd.runtime.lanes.shared_gather import gather_shared, withhold
from streamd.runtime.state.state import State


def fill_lane(state: State, server_numbers: ServerNumbers, batch: Batch, lane: Lane) -> None:
    """Stage a batch's windows if the lane's device keeps them, else copy them into the lane's inputs.

    If other processes write windows, the batch gets the steps that the windows had when they were read.
    """
    resident = get_resident(lane)
    if resident is None:
        gather_batch = gather_shared if state.is_shared else gather
        gather_batch(state, server_numbers, batch, lane.inputs)
        return
    if len(batch.servers):
        _stage(state, server_numbers, batch, resident)
    fill_requests(batch.requests, lane.inputs, len(batch.servers))


def _stage(state: State, server_numbers: ServerNumbers, batch: Batch, resident: ResidentWindows) -> None:
    slots, contract = batch.servers.slots, state.contract
    calendar = partial(make_calendar, horizon=contract.horizon, step_seconds=contract.step_seconds)
    staged = resident.stage(get_host_windows(state), slots, server_numbers.read(slots), calendar)
    if state.is_shared:
        _, _, contexts = state.snapshot_many(slots)
        batch.servers = replace(batch.servers, steps=staged.steps, contexts=contexts)
        withhold(batch, staged.torn | (contexts < state.windows.need))


def get_host_windows(state: State) -> HostWindows:
    """Return the arrays of the state that staging reads."""
    arrays, volatile = state.windows.arrays, state.windows.volatile
    return HostWindows(
        newest=arrays["newest"],
        changes=volatile["changes"],
        generations=state.directory.generations,
        values=arrays["values"],
        marks=arrays["marks"],
    )
