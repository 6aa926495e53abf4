"""Gives a lane the windows of a batch: by the way that the lane has, and whether or not other processes write them."""

from dataclasses import replace
from functools import partial

from streamd.core.scheduling.batches import Batch
from streamd.core.state.memory_reads import prepare_memory_read
from streamd.core.unknown_targets import UnknownSearch
from streamd.inference.lane import HostWindows, Inputs, Lane, ResidentWindows, get_resident
from streamd.runtime.lanes.gather import gather, make_calendar
from streamd.runtime.lanes.requests import fill_requests
from streamd.runtime.lanes.server_numbers import ServerNumbers
from streamd.runtime.lanes.shared_gather import gather_shared, withhold
from streamd.runtime.state.state import State


def fill_lane(state: State, server_numbers: ServerNumbers, batch: Batch, lane: Lane) -> None:
    """Stage a batch's windows if the lane's device keeps them, else copy them into the lane's inputs.

    If other processes write windows, the batch gets the steps that the windows had when they were read. The lane reads
    the memories of its servers, and finds its unknown targets, by what is set here.
    """
    resident = get_resident(lane)
    batch.unknown = UnknownSearch(state.contract.target_columns)
    if resident is None:
        gather_batch = gather_shared if state.is_shared else gather
        gather_batch(state, server_numbers, batch, lane.inputs)
    else:
        if len(batch.servers):
            _stage(state, server_numbers, batch, resident)
        fill_requests(batch.requests, lane.inputs, len(batch.servers))
    _prepare_memory(state, batch, lane.inputs)


def _prepare_memory(state: State, batch: Batch, inputs: Inputs) -> None:
    """Set how the lane reads the memories of servers, if its model asks for them; without any kept, they are NaN."""
    servers = batch.servers
    if inputs.memory_cont is None or not len(servers):
        return
    if state.memory is None:
        inputs.forget_memory(0, len(servers))
    else:
        batch.memory = prepare_memory_read(state.memory, servers.slots, servers.steps, is_shared=state.is_shared)


def _stage(state: State, server_numbers: ServerNumbers, batch: Batch, resident: ResidentWindows) -> None:
    slots, contract = batch.servers.slots, state.contract
    calendar = partial(make_calendar, horizon=contract.horizon, step_seconds=contract.step_seconds)
    staged = resident.stage(get_host_windows(state), slots, server_numbers.read(slots), calendar)
    batch.unknown = UnknownSearch(contract.target_columns, staged.unknown)
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
