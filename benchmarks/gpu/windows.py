"""Real windows for the GPU benchmarks: cut from the example fleet, and a window store filled with them.

The fleet has twelve servers over three days, so many windows share rows; each is scaled by factors of its own, so that
all of them differ.
"""

import mmap
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.harness import ROOT
from streamd.core.arrays import Float32
from streamd.core.calendar import compute_known_future
from streamd.core.contract import ModelContract
from streamd.core.state.layout import Layout, NamedArrays
from streamd.core.state.window_columns import PRESENT, make_window_columns
from streamd.core.state.windows import WindowStore
from streamd.inference.lane import Inputs
from streamd.runtime.lanes.gather import FEW_WINDOWS
from streamd.tools.fleets.fleet import RecordedFleet
from streamd.tools.fleets.readers import read_fleet

FLEET = ROOT / "examples" / "fleet" / "servers.csv.gz"
PERCENT = "percent"
BYTES_PER_UNIT = 3e6
"""The factor from the example fleet's network rates, which are shares of 1, to bytes/s."""


@lru_cache
def read_example_fleet(step_seconds: int) -> RecordedFleet:
    """Read the example fleet, on the contract's grid."""
    return read_fleet(FLEET, step_seconds)


def make_series(contract: ModelContract) -> Float32:
    """Make the fleet's series in the contract's order and units: `(server, step, feature) float32`, NaN if missing."""
    fleet = read_example_fleet(contract.step_seconds)
    series = np.full((*fleet.series.shape[:2], len(contract.features)), np.nan, np.float32)
    for column, name in enumerate(fleet.features):
        factor = BYTES_PER_UNIT if contract.units.get(name) == "bytes/s" else 1.0
        if name in contract.feature_index:
            series[..., contract.feature_index[name]] = fleet.series[..., column] * np.float32(factor)
    return series


def make_windows(contract: ModelContract, count: int, seed: int = 11) -> Inputs:
    """Make `count` different windows: every third lacks 20 % of its cells, every fifth is a million times as large.

    Origins are spread over the whole fleet; a tenth of the rows have the window's random status.
    """
    random = np.random.default_rng(seed)
    series = make_series(contract)
    servers, steps, _ = series.shape
    length = contract.context_length
    origins = np.linspace(0, steps - length, -(-count // servers)).astype(int)
    inputs = Inputs.allocate(contract, count)
    bounded = [contract.units.get(name) == PERCENT for name in contract.features]
    first_step = read_example_fleet(contract.step_seconds).first_step
    for place in range(count):
        server, begin = place % servers, int(origins[place // servers])
        scale = random.uniform(0.8, 1.2, len(contract.features)).astype(np.float32)
        if place % 5 == 4:
            scale[[not each for each in bounded]] *= np.float32(1e6)
        window = series[server, begin : begin + length] * scale
        window[:, bounded] = np.minimum(window[:, bounded], 100.0)
        if place % 3 == 2:
            window[random.random(window.shape) < 0.2] = np.nan
        inputs.encoder_cont[place] = window
        newest = first_step + begin + length - 1
        inputs.decoder_cont[place] = compute_known_future(newest, contract.horizon, contract.step_seconds)
    inputs.encoder_cat[..., 1] = random.integers(0, 16, (count, 1)) * (random.random((count, length)) < 0.1)
    inputs.decoder_cat[..., 1] = inputs.encoder_cat[:, -1:, 1]
    return inputs


def make_filled_store(contract: ModelContract, servers: int, places: int = 2) -> WindowStore:
    """Make a window store of `servers` full windows in ordinary memory.

    Their newest rows are of `places` consecutive steps: a fleet on one grid has two at the change of a step.
    """
    layout = Layout(make_window_columns(contract.context_length, len(contract.features)), servers, {})
    arrays = layout.make_views(mmap.mmap(-1, layout.nbytes))
    length, series = contract.context_length, make_series(contract)
    random = np.random.default_rng(3)
    begins = random.integers(0, series.shape[1] - length + 1, servers)
    sources = np.arange(servers) % len(series)
    scales = random.uniform(0.8, 1.2, (servers, 1, len(contract.features))).astype(np.float32)
    for at in range(0, servers, 500):
        run_part = slice(at, min(at + 500, servers))
        rows = begins[run_part, None] + np.arange(length)
        arrays["values"][run_part] = series[sources[run_part, None], rows] * scales[run_part]
    arrays["marks"][:] = PRESENT
    arrays["open_step"][:] = arrays["journal"][:] = -1
    arrays["newest"][:] = _choose_newest_steps(
        read_example_fleet(contract.step_seconds).first_step + length, servers, places
    )
    return _make_store(arrays)


def move_newest_rows(store: WindowStore, places: int) -> WindowStore:
    """Make a store of the same windows, in the same memory, with newest rows of so many steps."""
    newest = _choose_newest_steps(int(store.arrays["newest"].max()), store.capacity, places)
    return _make_store({**store.arrays, "newest": newest})


def _choose_newest_steps(last_step: int, servers: int, places: int) -> npt.NDArray[np.int64]:
    return last_step - np.random.default_rng(4).integers(0, places, servers)


def _make_store(arrays: NamedArrays) -> WindowStore:
    length = arrays["values"].shape[1]
    store = WindowStore(arrays, need=1, late_steps=length, grace_seconds=10.0)
    for slot in range(store.capacity):
        store.restore_slot(slot, have=length, expected=0)
    return store


class Gatherer:
    """Copies the windows of slots into a lane's inputs, as the daemon does for a batch of servers."""

    def __init__(self, contract: ModelContract, store: WindowStore) -> None:
        self._store = store
        newest = store.get_newest_step(0)
        self._calendar = compute_known_future(newest, contract.horizon, contract.step_seconds)

    def __call__(self, slots: npt.NDArray[np.int64], inputs: Inputs) -> None:
        """Fill the first rows of `inputs` with the windows of `slots`, and sort `slots` in place into their order."""
        count = len(slots)
        values, categories = inputs.encoder_cont[:count], inputs.encoder_cat[:count]
        slots[:] = slots[np.argsort(self._store.arrays["newest"][slots], kind="stable")]
        if count > FEW_WINDOWS:
            self._store.gather_windows(slots, values, categories[:, :, 1])
        else:
            for row, slot in enumerate(slots.tolist()):
                self._store.gather_window(slot, values[row], categories[row, :, 1])
        categories[:, :, 0] = 0
        inputs.decoder_cont[:count] = self._calendar
        inputs.decoder_cat[:count, :, 0] = 0
        inputs.decoder_cat[:count, :, 1] = categories[:, -1:, 1]
