"""Gathers a batch from windows that other processes write meanwhile: what changed in between is gathered again."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from streamd.core.scheduling.batches import Batch, ServerRows
from streamd.inference.lane import Inputs
from streamd.runtime.lanes.gather import gather
from streamd.runtime.lanes.server_numbers import ServerNumbers
from streamd.runtime.state.state import State

ATTEMPTS = 50
"""A window is whole again after a microsecond, unless its writer was killed in the middle of a change."""

NO_GENERATION = -1
"""The generation of a row that is not delivered: none of its server has it."""


def gather_shared(state: State, server_numbers: ServerNumbers, batch: Batch, inputs: Inputs) -> None:
    """Copy a batch's windows as `gather` does, each as it was at one moment; the batch gets the steps of these moments.

    A window that stays in the middle of a change is run as it is, and its forecast is not delivered. The process that
    repairs it reports it as due again. So is one that has too few rows by now.
    """
    slots = batch.servers.slots
    for _ in range(ATTEMPTS):
        changes = state.windows.read_changes(slots)
        batch.servers = _read_again(state, batch.servers)
        gather(state, server_numbers, batch, inputs)
        torn = state.windows.find_torn(slots, changes)
        if not torn.any():
            break
    withhold(batch, torn | (batch.servers.contexts < state.windows.need))


def withhold(batch: Batch, unusable: npt.NDArray[np.bool_]) -> None:
    """Let the forecasts of these servers, `(n,) bool`, not be delivered."""
    if unusable.any():
        batch.servers = replace(batch.servers, generations=np.where(unusable, NO_GENERATION, batch.servers.generations))


def _read_again(state: State, servers: ServerRows) -> ServerRows:
    """Return rows with their steps as they are now; the generations stay, by which a forgotten server is noticed."""
    _, steps, contexts = state.snapshot_many(servers.slots)
    return replace(servers, steps=steps, contexts=contexts)
