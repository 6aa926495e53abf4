"""The host's work for a micro-batch beside its lane: gathering its windows, and normalizing its predictions.

Each is compared with the earlier implementation, in turns within one process: alone, and in four threads at once (for
the predictions, beside a thread that is busy in Python, as the event loop is). The windows are in a store of 20,000
servers, far larger than a core's cache, and every batch reads others. Not measured: pinned memory, the first touch of
a mapped file, callers' windows, a lane's own work, more cores than this machine has. In the daemon only the event loop
gathers, so four threads at once are worse than the real load.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

if __name__ == "__main__":
    # As a script, Python puts this folder on the path; the benchmarks are imported from its parent.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.gpu.windows import make_filled_store, move_newest_rows
from benchmarks.harness import ROOT, describe_machine, print_table, write_result
from streamd.core.arrays import Float32
from streamd.core.calendar import compute_known_future
from streamd.core.contract import MAX_STATUS, ModelContract
from streamd.core.scheduling.batches import Batch, ServerRows
from streamd.core.state.windows import WindowStore
from streamd.inference.lane import Inputs
from streamd.repository.versions import EngineRepository
from streamd.runtime.lanes.gather import FEW_WINDOWS, gather
from streamd.runtime.lanes.server_numbers import ServerNumbers
from streamd.runtime.lanes.worker import normalize_predictions
from streamd.runtime.state.state import State

SERVERS = 20_000
THREADS = 4
TURNS = 9
TURN_SECONDS = 0.15
GATHERED = (1, 8, 32, 256)
NORMALIZED = (1, 8, 32, 128, 256)
CROSSED = (0.0, 0.001)
"""Shares of steps whose quantiles cross."""

BUSY_SECONDS = 1e-4

Work = Callable[[], object]
Makers = Mapping[str, Callable[[int], Work]]
"""By implementation: makes the call that one thread repeats."""


# ---------------------------------------------------------------- the earlier implementation
def gather_before(state: State, servers: ServerRows, inputs: Inputs) -> None:
    """Gather in the servers' order, one row of a window at a time; computes a calendar for each step of each batch."""
    contract, windows, count = state.contract, state.windows, len(servers)
    categories = inputs.encoder_cat
    categories[:count, :, 0] = inputs.decoder_cat[:count, :, 0] = 0
    values, statuses = inputs.encoder_cont, categories[:, :, 1]
    if count > FEW_WINDOWS:
        take_windows(windows, servers.slots, values[:count], statuses[:count])
    else:
        for row, slot in enumerate(servers.slots.tolist()):
            windows.gather_window(slot, values[row], statuses[row])
    calendars: dict[int, Float32] = {}
    for row, step in enumerate(servers.steps.tolist()):
        if (calendar := calendars.get(step)) is None:
            calendar = calendars[step] = compute_known_future(step, contract.horizon, contract.step_seconds)
        inputs.decoder_cont[row] = calendar
    inputs.decoder_cat[:count, :, 1] = categories[:count, -1:, 1]


def take_windows(windows: WindowStore, slots: Any, values: Any, status: Any) -> None:
    """Copy the windows of `slots`, `(n,)`, by the positions of all their rows."""
    length, arrays = windows.context_length, windows.arrays
    starts = (arrays["newest"][slots] + 1) % length
    places = (slots * length)[:, None] + (starts[:, None] + np.arange(length)) % length
    np.take(arrays["values"].reshape(-1, windows.features), places, axis=0, out=values, mode="clip")
    np.bitwise_and(np.take(arrays["marks"].reshape(-1), places, mode="clip"), MAX_STATUS, out=status)


def normalize_before(predictions: Float32) -> tuple[Float32, tuple[int, ...]]:
    """Check every number for being finite, and sort the whole batch if the quantiles of any step cross."""
    batch, horizon, targets, quantiles = predictions.shape
    together = np.ascontiguousarray(predictions).view(np.dtype((np.void, 4 * quantiles)))
    moved = together.reshape(batch, horizon, targets).transpose(0, 2, 1).copy(order="C")
    forecasts: Float32 = moved.view(np.float32).reshape(batch, targets, horizon, quantiles)
    bad = np.flatnonzero(~np.isfinite(forecasts).all(axis=(1, 2, 3)))
    flat = forecasts.reshape(-1)
    rises = np.ones(flat.size, np.bool_)
    np.greater_equal(flat[1:], flat[:-1], out=rises[:-1])
    rises[quantiles - 1 :: quantiles] = True
    if not rises.all():
        forecasts.sort(axis=-1)
    return forecasts, tuple(bad.tolist())


# ---------------------------------------------------------------- measuring
def measure_alone(makers: Makers) -> dict[str, float]:
    """Measure the median microseconds of each implementation, in turns call by call."""
    works = {way: maker(0) for way, maker in makers.items()}
    seconds: dict[str, list[float]] = {way: [] for way in works}
    until = time.perf_counter() + TURNS * TURN_SECONDS * len(works)
    order = list(works.items())
    while time.perf_counter() < until:
        for way, work in order:
            began = time.perf_counter()
            work()
            seconds[way].append(time.perf_counter() - began)
        order.reverse()  # Each implementation finds the other's data in the caches equally often.
    return {way: round(float(np.median(each)) * 1e6, 1) for way, each in seconds.items()}


def measure_at_once(makers: Makers, *, busy: bool) -> dict[str, float]:
    """Measure the calls a second of all threads together: the median of the turns."""
    rates: dict[str, list[float]] = {way: [] for way in makers}
    for _ in range(TURNS):
        for way, maker in makers.items():
            rates[way].append(_run_turn([maker(place) for place in range(THREADS)], busy))
    return {way: round(float(np.median(each)), 1) for way, each in rates.items()}


def _run_turn(works: Sequence[Work], busy: bool) -> float:
    stop, counts = threading.Event(), [0] * len(works)

    def repeat(place: int) -> None:
        while not stop.is_set():
            works[place]()
            counts[place] += 1

    def be_busy() -> None:
        while not stop.wait(BUSY_SECONDS):
            until = time.perf_counter() + BUSY_SECONDS
            while time.perf_counter() < until:
                pass

    with ExitStack() as stack:
        for place in range(len(works)):
            stack.enter_context(_run_thread(threading.Thread(target=repeat, args=(place,))))
        if busy:
            stack.enter_context(_run_thread(threading.Thread(target=be_busy)))
        began, before = time.perf_counter(), sum(counts)
        time.sleep(TURN_SECONDS)
        rate = (sum(counts) - before) / (time.perf_counter() - began)
        stop.set()
    return rate


@contextmanager
def _run_thread(thread: threading.Thread) -> Any:
    thread.start()
    yield
    thread.join()


def measure_both(makers: Makers, windows: int, *, busy: bool) -> dict[str, Any]:
    """Take both measurements of one cell; rates are in windows a second."""
    rates = {way: round(rate * windows) for way, rate in measure_at_once(makers, busy=busy).items()}
    return {"windows": windows, "microseconds_alone": measure_alone(makers), "windows_per_second_at_once": rates}


# ---------------------------------------------------------------- gathering
def measure_gather(contract: ModelContract) -> list[dict[str, Any]]:
    """Measure every batch size, for fleets whose windows begin at one position, at two, and at any."""
    store = make_filled_store(contract, SERVERS)
    found = []
    for places in (1, 2, contract.context_length):
        windows = move_newest_rows(store, places)
        state = cast(State, SimpleNamespace(contract=contract, windows=windows, directory=None))
        order = np.random.default_rng(5).permutation(SERVERS)
        steps, zeros = windows.arrays["newest"][order], np.zeros(SERVERS, np.int64)
        contexts = np.full(SERVERS, contract.context_length)
        servers = ServerRows(slots=order, generations=zeros, steps=steps, contexts=contexts, since=np.zeros(SERVERS))
        for count in GATHERED:
            makers = _make_gatherings(state, servers, count)
            found.append({"places": places, **measure_both(makers, count, busy=False)})
    return found


def _make_gatherings(state: State, servers: ServerRows, count: int) -> Makers:
    def walk(place: int, take: Callable[[ServerRows, Inputs], None]) -> Work:
        inputs, at = Inputs.allocate(state.contract, count), place * len(servers) // THREADS

        def work() -> None:
            nonlocal at
            at = (at + count) % (len(servers) - count)
            take(servers.select(slice(at, at + count)), inputs)

        return work

    numbers = ServerNumbers({}, state.directory)

    def before(batch: ServerRows, inputs: Inputs) -> None:
        gather_before(state, batch, inputs)

    def now(batch: ServerRows, inputs: Inputs) -> None:
        gather(state, numbers, Batch(batch.sort_by_step()), inputs)

    return {"before": lambda place: walk(place, before), "now": lambda place: walk(place, now)}


# ---------------------------------------------------------------- normalizing
def measure_normalization(contract: ModelContract) -> list[dict[str, Any]]:
    """Measure every batch size, without crossing quantiles and with a few."""
    found = []
    for count in NORMALIZED:
        for share in CROSSED:
            forecasts = make_forecasts(contract, count, share)
            makers = {
                "before": partial(_make_normalization, normalize_before, forecasts),
                "now": partial(_make_normalization, normalize_predictions, forecasts),
            }
            found.append({"crossed": share, **measure_both(makers, count, busy=True)})
    return found


def _make_normalization(put: Callable[[Float32], object], forecasts: Float32, place: int) -> Work:
    return partial(put, forecasts.copy())


def make_forecasts(contract: ModelContract, count: int, crossed: float) -> Float32:
    """Make predictions of a lane, `(count, horizon, targets, quantiles)`; `crossed` is the share of crossing steps.

    At least one step crosses if the share is above 0.
    """
    random = np.random.default_rng(1)
    shape = (count, contract.horizon, len(contract.targets), len(contract.quantiles))
    forecasts: Float32 = np.sort(random.normal(size=shape).astype(np.float32), axis=-1)
    steps = forecasts.reshape(-1, shape[-1])
    chosen = random.permutation(len(steps))[: int(np.ceil(crossed * len(steps)))]
    steps[chosen] = steps[chosen, ::-1]
    return forecasts


def main() -> int:
    """Measure both, print the results and write them."""
    contract = EngineRepository(ROOT / "engines").choose().contract
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "command": "python benchmarks/host.py",
        "not_measured": __doc__,
    }
    result["servers"], result["threads"] = SERVERS, THREADS
    result["gather"] = gathered = measure_gather(contract)
    _print_cells("Gathering", "places", gathered)
    result["in_order"] = ordered = measure_normalization(contract)
    _print_cells("Normalizing", "crossed", ordered)
    print(f"\nwritten to {write_result('host', result).relative_to(ROOT)}")
    return 0


def _print_cells(title: str, key: str, cells: Sequence[dict[str, Any]]) -> None:
    head = (key, "windows", "before, µs", "now, µs", "ratio", f"before, {THREADS} threads /s", "now /s", "ratio")
    rows = []
    for cell in cells:
        (was, now), (was_rate, now_rate) = (
            (each["before"], each["now"]) for each in (cell["microseconds_alone"], cell["windows_per_second_at_once"])
        )
        speed, rate = f"{was / now:.2f}", f"{now_rate / max(was_rate, 1):.2f}"
        rows.append((cell[key], cell["windows"], was, now, speed, f"{was_rate:,}", f"{now_rate:,}", rate))
    print_table(title, head, rows)


if __name__ == "__main__":
    sys.exit(main())
