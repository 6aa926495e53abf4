"""A copy of what is known of all servers at one moment, taken beside the loop that changes it. Decides nothing."""

import time
from dataclasses import dataclass

import numpy as np

from streamd.core.alerts.evaluation import Flags
from streamd.core.arrays import Numbers, Slots
from streamd.core.state.seals import Words
from streamd.runtime.state.state import State

POSTING_SECONDS = 0.001
"""A forecast that is being posted is looked at again after this time."""


@dataclass(frozen=True, kw_only=True)
class FleetSnapshot:
    """All servers by slot; every array is `(capacity,)`."""

    is_server: Flags
    """Whether the slot has a server, the same one while the others were read."""
    generations: Numbers
    seeds: Words
    """A number of the server's name."""
    serials: Numbers
    """The serial of the newest forecast, 0 without one."""
    forecast_steps: Numbers
    """The step of the newest row that was forecast, or `NO_STEP`."""
    newest: Numbers
    """The step of the newest closed row, or `NO_STEP`."""
    have: Numbers
    """The number of rows in the window."""
    is_relayed: Flags
    """Whether the window is at another node of a cluster: then the two before are those of the newest forecast."""


def take_snapshot(state: State, former: FleetSnapshot | None) -> FleetSnapshot:
    """Copy what the loop, and the workers, know of all servers; `former` is the snapshot before."""
    directory, slots = state.directory, np.arange(state.directory.capacity)
    generations, seeds = directory.generations.copy(), directory.seeds.copy()
    newest = np.array(state.windows.arrays["newest"], np.int64)
    have = state.windows.volatile["have"].astype(np.int64)
    serials, forecast_steps = state.board.get_serials(slots), state.board.get_steps(slots)
    if former is not None:
        # A forecast is down while a newer one takes its place; what is still down a moment later is gone.
        down = np.flatnonzero((serials == 0) & (former.serials > 0) & (former.generations == generations))
        if len(down):
            time.sleep(POSTING_SECONDS)
            serials[down], forecast_steps[down] = _read_again(state, down)
    is_relayed = (have == 0) & (serials > 0)
    relayed = np.flatnonzero(is_relayed)
    newest[relayed] = forecast_steps[relayed]
    have[relayed] = state.board.get_contexts(relayed)
    is_same = (directory.generations == generations) & (directory.seeds == seeds)
    return FleetSnapshot(
        is_server=(seeds != 0) & is_same,
        generations=generations,
        seeds=seeds,
        serials=serials,
        forecast_steps=forecast_steps,
        newest=newest,
        have=have,
        is_relayed=is_relayed,
    )


def _read_again(state: State, slots: Slots) -> tuple[Numbers, Numbers]:
    return state.board.get_serials(slots), state.board.get_steps(slots)
