"""Copies a batch into a lane's inputs: windows, calendars, server ids, and callers' own windows.

Reads the state on the event loop and changes only the inputs; nothing here waits.
"""

from collections.abc import Callable, Mapping, Sequence, Sized
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32
from streamd.core.calendar import compute_known_future
from streamd.core.contract import ModelContract
from streamd.core.errors import InferenceError
from streamd.core.scheduling.scheduler import Item, RequestItem, ServerItem
from streamd.inference.lane import Inputs
from streamd.runtime.state.state import State

FEW_WINDOWS = 6
"""Up to so many windows are gathered faster one by one."""

CALENDARS = 512
"""Cached calendars, 1.5 kB each at 96 steps. Making one takes longer than copying a window, and a fleet needs few."""

_slot: Callable[[ServerItem], int] = attrgetter("slot")


class Request(Protocol):
    """The windows of a call."""

    def fill(self, index: int, inputs: Inputs, row: int) -> None:
        """Copy window `index` into row `row` of a lane's inputs."""
        ...

    def answer(self, index: int, forecast: Float32, model: str) -> None:
        """Store the forecast `(targets, horizon, quantiles)` of window `index`: a view. `model` made it."""
        ...

    def fail(self, index: int, error: InferenceError) -> None:
        """Note that window `index` has no forecast."""
        ...


def gather(state: State, server_ids: dict[str, int], items: list[Item], inputs: Inputs) -> None:
    """Copy a batch's windows into the first rows of a lane's inputs, and sort `items` in place into the rows' order.

    Servers are first, those of one step together: their windows begin at the same place and are copied at once.
    """
    by_step: dict[int, list[ServerItem]] = {}
    requests: list[RequestItem] = []
    for item in items:
        if isinstance(item, RequestItem):
            requests.append(item)
        elif (of_step := by_step.get(item.step)) is None:
            by_step[item.step] = [item]
        else:
            of_step.append(item)
    servers = list(chain.from_iterable(by_step.values()))
    items[:] = [*servers, *requests]
    _gather_servers(state, server_ids, servers, inputs)
    _fill_calendars(state.contract, by_step, inputs.decoder_cont)
    for row, request in enumerate(requests, len(servers)):
        get_request(request).fill(request.index, inputs, row)


def _gather_servers(state: State, server_ids: dict[str, int], servers: Sequence[ServerItem], inputs: Inputs) -> None:
    """Fill one row for each server: the values and statuses of its window, and its id."""
    count, windows = len(servers), state.windows
    values, past, ahead = inputs.encoder_cont[:count], inputs.encoder_cat[:count], inputs.decoder_cat[:count]
    statuses = past[:, :, 1]
    if count > FEW_WINDOWS:
        windows.gather_windows(np.fromiter(map(_slot, servers), np.int64, count), values, statuses)
    else:
        for row, server in enumerate(servers):
            windows.gather_window(server.slot, values[row], statuses[row])
    identifiers: npt.NDArray[np.int32] | int = 0
    if server_ids:
        names = state.directory.names
        known = (server_ids.get(names[server.slot] or "", 0) for server in servers)
        identifiers = np.fromiter(known, np.int32, count)[:, None]
    past[:, :, 0] = identifiers
    ahead[:, :, 0] = identifiers
    # The newest status of a server is assumed for the whole horizon.
    ahead[:, :, 1] = statuses[:, -1:]


def _fill_calendars(contract: ModelContract, by_step: Mapping[int, Sized], calendars: Float32) -> None:
    """Fill the first rows of `calendars (batch, horizon, 4)`, one for each server of each step."""
    row = 0
    for step, servers in by_step.items():
        calendars[row : row + len(servers)] = _calendar(step, contract.horizon, contract.step_seconds)
        row += len(servers)


@lru_cache(maxsize=CALENDARS)
def _calendar(step: int, horizon: int, step_seconds: int) -> Float32:
    return compute_known_future(step, horizon, step_seconds)


def get_request(item: RequestItem) -> Request:
    """Return the request of an item, which the scheduler knows only as an object."""
    request: Request = item.request  # type: ignore[assignment]
    return request
