"""How long after the GPU's end the coroutine that waits for it goes on, by how its end is noticed.

`blocking event`: a thread sleeps in the driver and calls `call_soon_threadsafe` (the daemon's way). `polling`: the
loop itself asks at every turn. `polling at 1 ms`: it asks once a millisecond. `spinning thread`: a thread asks all
the time and calls `call_soon_threadsafe`. The GPU stamps its own end with its clock, compared with the host's in the
same run. Once on an idle loop, once on a loop that has 200 us of other work at every turn; how many such slices got
done tells what noticing costs. Not measured: several lanes at once, a loop with sockets, other event loops than uvloop.
"""

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu.harness import ResultFile, Suite
from benchmarks.gpu.kernels import Clock, Kernels, calibrate, to_host_ns
from benchmarks.harness import print_table
from streamd.core.state.layout import make_scalar_view
from streamd.inference import cuda
from streamd.inference.cuda import Event, HostBuffer, Stream

BUSY_NS = (200_000, 900_000)
"""How long the GPU is kept, at random: whoever waits has gone to sleep by then."""

SLICE_SECONDS = 200e-6
LEAST_SAMPLES = 200
MOST_SECONDS = 8.0
"""However few samples there are by then, a cell ends."""


class Device:
    """A stream with the stamping kernel on it, and the cell that it stamps."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.events = {True: Event(blocking=True), False: Event(blocking=False)}
        self.shared = HostBuffer(8)
        self.cell = make_scalar_view(self.shared.array(np.uint64, (1,)))
        self.kernels = Kernels()

    def use(self) -> None:
        """Let the calling thread's work go to it."""
        cuda.use_device(self.stream.device)

    def launch(self, busy_ns: int, *, blocking: bool) -> Event:
        """Keep the GPU busy for so long, then let it stamp; returns the mark behind it."""
        self.cell[0] = 0
        self.kernels.launch("stamp", self.stream, self.shared.pointer, busy_ns)
        event = self.events[blocking]
        event.record(self.stream)
        return event

    def close(self) -> None:
        """Release it."""
        for each in (*self.events.values(), self.shared, self.stream):
            each.close()


class Notifier:
    """One way to learn of the GPU's end: `begin` launches and lets a future know."""

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop) -> None:
        self.device = device
        self.loop = loop

    def begin(self, busy_ns: int, future: "asyncio.Future[None]") -> None:
        """Launch; the future is done some time after the GPU."""
        raise NotImplementedError

    def close(self) -> None:
        """End what it started."""


class Polling(Notifier):
    """The loop asks by a timer."""

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop, every_seconds: float) -> None:
        super().__init__(device, loop)
        self.every_seconds = every_seconds

    def begin(self, busy_ns: int, future: "asyncio.Future[None]") -> None:
        """See `Notifier.begin`."""
        self._look(self.device.launch(busy_ns, blocking=False), future)

    def _look(self, event: Event, future: "asyncio.Future[None]") -> None:
        if event.done():
            future.set_result(None)
        else:
            self.loop.call_later(self.every_seconds, self._look, event, future)


class Threaded(Notifier):
    """A thread waits, asleep or spinning, as a lane's thread does."""

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop, *, spins: bool) -> None:
        super().__init__(device, loop)
        self.spins = spins
        self._work: queue.SimpleQueue[tuple[int, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="waits for the GPU")
        self._thread.start()

    def begin(self, busy_ns: int, future: "asyncio.Future[None]") -> None:
        """See `Notifier.begin`."""
        self._work.put((busy_ns, future))

    def close(self) -> None:
        """See `Notifier.close`."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        self.device.use()
        while (work := self._work.get()) is not None:
            busy_ns, future = work
            event = self.device.launch(busy_ns, blocking=not self.spins)
            if self.spins:
                while not event.done():
                    pass
            else:
                event.synchronize()
            self.loop.call_soon_threadsafe(future.set_result, None)


WAYS: dict[str, Callable[[Device, asyncio.AbstractEventLoop], Notifier]] = {
    "blocking event": lambda device, loop: Threaded(device, loop, spins=False),
    "polling": lambda device, loop: Polling(device, loop, 0.0),
    "polling at 1 ms": lambda device, loop: Polling(device, loop, 0.001),
    "spinning thread": lambda device, loop: Threaded(device, loop, spins=True),
}


class OtherWork:
    """What a busy loop does besides: slices of computing, one a turn."""

    def __init__(self) -> None:
        self.slices = 0
        self._stop = False

    async def run(self) -> None:
        """Work until stopped."""
        clock = time.perf_counter
        while not self._stop:
            ends = clock() + SLICE_SECONDS
            while clock() < ends:
                pass
            self.slices += 1
            await asyncio.sleep(0)

    def stop(self) -> None:
        """Let `run` return."""
        self._stop = True


@dataclass
class Seen:
    """What a way gave: `(GPU's stamp, host's time)` of each wake-up in ns, CPU time and other work done."""

    wakeups: list[tuple[int, int]]
    cores_used: float
    slices_per_second: float

    def figures(self, first: Clock, last: Clock) -> dict[str, float]:
        """Latencies in microseconds, by the clocks as compared before and after; the first few warm up."""
        late = np.array([woke - to_host_ns(first, last, stamp) for stamp, woke in self.wakeups[5:]]) / 1e3
        return {
            "samples": len(late),
            "p50_us": round(float(np.percentile(late, 50)), 2),
            "p99_us": round(float(np.percentile(late, 99)), 2),
            "least_us": round(float(late.min()), 2),
            "cores_used": round(self.cores_used, 3),
            "other_slices_per_second": round(self.slices_per_second, 1),
            "clock_uncertainty_us": max(first.uncertainty_ns, last.uncertainty_ns) / 1e3,
            "clock_resolution_us": first.resolution_ns / 1e3,
            "clock_drift_us": (last.offset_ns - first.offset_ns) / 1e3,
        }


async def measure(notifier: Notifier, seconds: float, *, busy: bool) -> Seen:
    """Let the GPU end again and again, and note when this coroutine goes on."""
    loop, device = asyncio.get_running_loop(), notifier.device
    other, chance = OtherWork(), random.Random(1)
    working = asyncio.create_task(other.run()) if busy else None
    wakeups: list[tuple[int, int]] = []
    began, cpu = time.perf_counter(), time.process_time()
    while (took := time.perf_counter() - began) < seconds or (len(wakeups) < LEAST_SAMPLES and took < MOST_SECONDS):
        future: asyncio.Future[None] = loop.create_future()
        notifier.begin(chance.randint(*BUSY_NS), future)
        await future
        woke = time.perf_counter_ns()
        wakeups.append((device.cell[0], woke))
    took, used = time.perf_counter() - began, time.process_time() - cpu
    if working is not None:
        other.stop()
        await working
    return Seen(wakeups, used / took, other.slices / took)


def run(suite: Suite) -> None:
    """Measure every way on both loops."""
    import uvloop

    result = ResultFile(suite, "wakeup", not_measured=__doc__)
    if suite.arguments.backend != "tensorrt":
        print("wakeup: needs a GPU")
        return
    cuda.use_device(0)
    device = Device()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for busy in (False, True):
                for way in WAYS:
                    with suite.part(f"wakeup: {way}, {'busy' if busy else 'idle'} loop"):
                        first = calibrate(device.kernels, device.stream)
                        seen = runner.run(_one(device, way, suite.seconds, busy=busy))
                        figures = seen.figures(first, calibrate(device.kernels, device.stream))
                        result.append("cells", {"way": way, "loop": "busy" if busy else "idle", **figures})
    finally:
        device.close()
    _print(result.content.get("cells", []))


async def _one(device: Device, way: str, seconds: float, *, busy: bool) -> Seen:
    notifier = WAYS[way](device, asyncio.get_running_loop())
    try:
        return await measure(notifier, seconds, busy=busy)
    finally:
        notifier.close()


def _print(cells: list[dict[str, Any]]) -> None:
    head = ("way", "loop", "p50 us", "p99 us", "least us", "cores", "other slices/s", "clock +- us")
    kept = (
        "way",
        "loop",
        "p50_us",
        "p99_us",
        "least_us",
        "cores_used",
        "other_slices_per_second",
        "clock_uncertainty_us",
    )
    print_table("From the GPU's end to the coroutine", head, [tuple(cell[name] for name in kept) for cell in cells])
