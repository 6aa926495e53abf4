"""From a batch's items to a lane's inputs: windows, calendars, server ids, and what callers bring themselves."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from streamd.core.calendar import known_future
from streamd.core.errors import InferenceError
from streamd.core.scheduler import Item, RequestItem, ServerItem
from streamd.core.windows import WindowStore
from streamd.device.lane import Float32, Inputs
from streamd.runtime.state import State

FEW_WINDOWS = 6
"""Up to so many windows are gathered sooner one by one."""


class Request(Protocol):
    """A caller's windows."""

    def fill(self, index: int, inputs: Inputs, row: int) -> None:
        """Copy window `index` into row `row` of a lane's inputs."""
        ...

    def answer(self, index: int, forecast: Float32, model: str) -> None:
        """Take the forecast `(targets, horizon, quantiles)` of window `index`, and the name of what made it."""
        ...

    def fail(self, index: int, error: InferenceError) -> None:
        """Learn that window `index` has no forecast."""
        ...


def gather(state: State, server_ids: dict[str, int], items: Sequence[Item], inputs: Inputs) -> None:
    """Copy a batch's windows into a lane's inputs, row by row in the items' order."""
    contract, count = state.contract, len(items)
    categories = inputs.encoder_cat
    categories[:count, :, 0] = inputs.decoder_cat[:count, :, 0] = 0
    servers = [(row, item) for row, item in enumerate(items) if isinstance(item, ServerItem)]
    _gather_windows(state.windows, servers, count, inputs)
    calendars: dict[int, Float32] = {}
    for row, server in servers:
        if (calendar := calendars.get(server.step)) is None:
            calendar = calendars[server.step] = known_future(server.step, contract.horizon, contract.step_seconds)
        inputs.decoder_cont[row] = calendar
        if server_ids:
            name = state.directory.names[server.slot] or ""
            categories[row, :, 0] = inputs.decoder_cat[row, :, 0] = server_ids.get(name, 0)
    # The last status that was given holds for the future.
    inputs.decoder_cat[:count, :, 1] = categories[:count, -1:, 1]
    for row, item in enumerate(items):
        if isinstance(item, RequestItem):
            request_of(item).fill(item.index, inputs, row)


def _gather_windows(
    windows: WindowStore, servers: Sequence[tuple[int, ServerItem]], count: int, inputs: Inputs
) -> None:
    values, statuses = inputs.encoder_cont, inputs.encoder_cat[:, :, 1]
    if len(servers) == count > FEW_WINDOWS:
        slots = np.fromiter((server.slot for _, server in servers), np.int64, count)
        windows.gather_many(slots, values[:count], statuses[:count])
    else:
        for row, server in servers:
            windows.gather(server.slot, values[row], statuses[row])


def request_of(item: RequestItem) -> Request:
    """Return the request that an item is a window of."""
    request: Request = item.request  # type: ignore[assignment]
    return request
