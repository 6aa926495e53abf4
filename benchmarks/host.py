"""What a micro-batch costs the host beside its lane: gathering its windows, and putting its quantiles in order.

Each beside the way it was done before, in turns within one process: alone, and by four threads at once (for the
quantiles, beside a thread that is busy in Python, as the event loop is). Windows lie in a store of 20,000 servers, far
larger than a core's cache, and every batch takes others. Not measured: pinned memory, a mapped file's first touch,
callers' windows, a lane's own work, more cores than this machine has. In the daemon only the loop gathers, so that four
threads at once are worse than what it meets.
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
    # Run as a script, this folder's parent is not on the path, and its own would shadow nothing useful.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.gpu.windows import filled_store, with_places
from benchmarks.harness import ROOT, machine, print_table, write_result
from streamd.core.arrays import Float32
from streamd.core.calendar import compute_known_future
from streamd.core.contract import MAX_STATUS, ModelContract
from streamd.core.scheduling.scheduler import Item, ServerItem
from streamd.core.state.windows import WindowStore
from streamd.inference.lane import Inputs
from streamd.repository.versions import EngineRepository
from streamd.runtime.lanes.gather import FEW_WINDOWS, gather
from streamd.runtime.lanes.worker import normalize_predictions
from streamd.runtime.state.state import State

SERVERS = 20_000
THREADS = 4
TURNS = 9
TURN_SECONDS = 0.15
GATHERED = (1, 8, 32, 256)
PUT_IN_ORDER = (1, 8, 32, 128, 256)
CROSSED = (0.0, 0.001)
"""Shares of steps whose quantiles cross."""

BUSY_SECONDS = 1e-4

Work = Callable[[], object]
Makers = Mapping[str, Callable[[int], Work]]
"""By way: makes what one thread repeats."""


# ---------------------------------------------------------------- as it was before
def gather_before(state: State, items: Sequence[ServerItem], inputs: Inputs) -> None:
    """In the items' order, a row of a window at a time; a calendar for each step of each batch."""
    contract, windows, count = state.contract, state.windows, len(items)
    categories = inputs.encoder_cat
    categories[:count, :, 0] = inputs.decoder_cat[:count, :, 0] = 0
    values, statuses = inputs.encoder_cont, categories[:, :, 1]
    if count > FEW_WINDOWS:
        slots = np.fromiter((item.slot for item in items), np.int64, count)
        take_rows(windows, slots, values[:count], statuses[:count])
    else:
        for row, item in enumerate(items):
            windows.gather_window(item.slot, values[row], statuses[row])
    calendars: dict[int, Float32] = {}
    for row, item in enumerate(items):
        if (calendar := calendars.get(item.step)) is None:
            calendar = calendars[item.step] = compute_known_future(item.step, contract.horizon, contract.step_seconds)
        inputs.decoder_cont[row] = calendar
    inputs.decoder_cat[:count, :, 1] = categories[:count, -1:, 1]


def take_rows(windows: WindowStore, slots: Any, values: Any, status: Any) -> None:
    """Copy the windows of `slots (n,)` by the places of all their rows."""
    length, arrays = windows.context_length, windows.arrays
    starts = slots * (2 * length) + (arrays["newest"][slots] + 1) % length
    places = starts[:, None] + np.arange(length)
    np.take(arrays["values"].reshape(-1, windows.features), places, axis=0, out=values, mode="clip")
    np.bitwise_and(np.take(arrays["marks"].reshape(-1), places, mode="clip"), MAX_STATUS, out=status)


def in_order_before(predictions: Float32) -> tuple[Float32, tuple[int, ...]]:
    """Every number looked at for being finite, and the whole batch sorted where a step crosses."""
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
def alone(makers: Makers) -> dict[str, float]:
    """Median microseconds of each way, call by call in turns."""
    works = {way: maker(0) for way, maker in makers.items()}
    seconds: dict[str, list[float]] = {way: [] for way in works}
    until = time.perf_counter() + TURNS * TURN_SECONDS * len(works)
    order = list(works.items())
    while time.perf_counter() < until:
        for way, work in order:
            began = time.perf_counter()
            work()
            seconds[way].append(time.perf_counter() - began)
        order.reverse()  # each leaves its caches to the other as often
    return {way: round(float(np.median(each)) * 1e6, 1) for way, each in seconds.items()}


def at_once(makers: Makers, *, busy: bool) -> dict[str, float]:
    """Median of turns: calls a second of all threads together."""
    rates: dict[str, list[float]] = {way: [] for way in makers}
    for _ in range(TURNS):
        for way, maker in makers.items():
            rates[way].append(_turn([maker(place) for place in range(THREADS)], busy))
    return {way: round(float(np.median(each)), 1) for way, each in rates.items()}


def _turn(works: Sequence[Work], busy: bool) -> float:
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
            stack.enter_context(_running(threading.Thread(target=repeat, args=(place,))))
        if busy:
            stack.enter_context(_running(threading.Thread(target=be_busy)))
        began, before = time.perf_counter(), sum(counts)
        time.sleep(TURN_SECONDS)
        rate = (sum(counts) - before) / (time.perf_counter() - began)
        stop.set()
    return rate


@contextmanager
def _running(thread: threading.Thread) -> Any:
    thread.start()
    yield
    thread.join()


def figures_of(makers: Makers, windows: int, *, busy: bool) -> dict[str, Any]:
    """Both measurements of one cell; rates in windows a second."""
    rates = {way: round(rate * windows) for way, rate in at_once(makers, busy=busy).items()}
    return {"windows": windows, "microseconds_alone": alone(makers), "windows_per_second_at_once": rates}


# ---------------------------------------------------------------- gathering
def measure_gather(contract: ModelContract) -> list[dict[str, Any]]:
    """Every size of a batch, for fleets whose windows begin at one place, at two, and at any."""
    store = filled_store(contract, SERVERS)
    found = []
    for places in (1, 2, contract.context_length):
        windows = with_places(store, places)
        state = cast(State, SimpleNamespace(contract=contract, windows=windows))
        order = np.random.default_rng(5).permutation(SERVERS).tolist()
        items = [ServerItem(slot, 0, windows.get_newest_step(slot), contract.context_length, 0.0) for slot in order]
        for count in GATHERED:
            makers = _gatherings(state, items, count)
            found.append({"places": places, **figures_of(makers, count, busy=False)})
    return found


def _gatherings(state: State, items: Sequence[ServerItem], count: int) -> Makers:
    def walk(place: int, take: Callable[[Sequence[ServerItem], Inputs], None]) -> Work:
        inputs, at = Inputs.allocate(state.contract, count), place * len(items) // THREADS

        def work() -> None:
            nonlocal at
            at = (at + count) % (len(items) - count)
            take(items[at : at + count], inputs)

        return work

    def before(batch: Sequence[ServerItem], inputs: Inputs) -> None:
        gather_before(state, batch, inputs)

    def now(batch: Sequence[ServerItem], inputs: Inputs) -> None:
        gather(state, {}, cast(list[Item], batch), inputs)

    return {"before": lambda place: walk(place, before), "now": lambda place: walk(place, now)}


# ---------------------------------------------------------------- putting in order
def measure_in_order(contract: ModelContract) -> list[dict[str, Any]]:
    """Every size of a batch, in order and with a few steps that cross."""
    found = []
    for count in PUT_IN_ORDER:
        for share in CROSSED:
            forecasts = forecasts_of(contract, count, share)
            makers = {
                "before": partial(_ordering, in_order_before, forecasts),
                "now": partial(_ordering, normalize_predictions, forecasts),
            }
            found.append({"crossed": share, **figures_of(makers, count, busy=True)})
    return found


def _ordering(put: Callable[[Float32], object], forecasts: Float32, place: int) -> Work:
    return partial(put, forecasts.copy())


def forecasts_of(contract: ModelContract, count: int, crossed: float) -> Float32:
    """`(count, horizon, targets, quantiles)` of a lane; at least one step of all crosses if any shall."""
    random = np.random.default_rng(1)
    shape = (count, contract.horizon, len(contract.targets), len(contract.quantiles))
    forecasts: Float32 = np.sort(random.normal(size=shape).astype(np.float32), axis=-1)
    steps = forecasts.reshape(-1, shape[-1])
    chosen = random.permutation(len(steps))[: int(np.ceil(crossed * len(steps)))]
    steps[chosen] = steps[chosen, ::-1]
    return forecasts


def main() -> int:
    """Measure both, print them, and keep them."""
    contract = EngineRepository(ROOT / "engines").choose().contract
    result: dict[str, Any] = {"machine": machine(), "command": "python benchmarks/host.py", "not_measured": __doc__}
    result["servers"], result["threads"] = SERVERS, THREADS
    result["gather"] = gathered = measure_gather(contract)
    _print("Gathering", "places", gathered)
    result["in_order"] = ordered = measure_in_order(contract)
    _print("Putting in order", "crossed", ordered)
    print(f"\nkept in {write_result('host', result).relative_to(ROOT)}")
    return 0


def _print(title: str, key: str, cells: Sequence[dict[str, Any]]) -> None:
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
