"""The time from the end of the GPU's work until the coroutine that waits for it continues, by the kind of waiting.

`blocking event`: a thread sleeps in the driver and calls `call_soon_threadsafe` (as in the daemon). `polling`: the loop
checks at every iteration. `polling at 1 ms`: it checks once a millisecond. `spinning thread`: a thread checks all the
time and calls `call_soon_threadsafe`. The GPU writes the time of its end by its own clock, which is compared with the
host's in the same run. Measured on an idle loop, and on a loop with 200 us of other work at every iteration; the number
of such slices shows the cost of waiting. Not measured: several lanes at once, a loop with sockets, other event loops.
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
from benchmarks.gpu.kernels import Clock, Kernels, calibrate, convert_to_host_ns
from benchmarks.harness import print_table
from streamd.core.state.layout import make_scalar_view
from streamd.inference import cuda
from streamd.inference.cuda import Event, HostBuffer, Stream

BUSY_NS = (200_000, 900_000)
"""The bounds of the random time for which the GPU is busy: long enough for a waiting thread to sleep."""

SLICE_SECONDS = 200e-6
LEAST_SAMPLES = 200
MOST_SECONDS = 8.0
"""The time after which a cell ends, even with fewer samples."""


class Device:
    """A stream, the kernel `stamp`, and the cell to which it writes."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.events = {True: Event(blocking=True), False: Event(blocking=False)}
        self.shared = HostBuffer(8)
        self.cell = make_scalar_view(self.shared.array(np.uint64, (1,)))
        self.kernels = Kernels()

    def use(self) -> None:
        """Make the device current in the calling thread."""
        cuda.use_device(self.stream.device)

    def launch(self, busy_ns: int, *, blocking: bool) -> Event:
        """Keep the GPU busy for `busy_ns`, then let it write its time; returns the event after that."""
        self.cell[0] = 0
        self.kernels.launch("stamp", self.stream, self.shared.pointer, busy_ns)
        event = self.events[blocking]
        event.record(self.stream)
        return event

    def close(self) -> None:
        """Release the device's resources."""
        for each in (*self.events.values(), self.shared, self.stream):
            each.close()


class Notifier:
    """A way to wait for the GPU: `begin` launches work and completes a future at its end."""

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop) -> None:
        self.device = device
        self.loop = loop

    def begin(self, busy_ns: int, future: "asyncio.Future[None]") -> None:
        """Launch work; the future is completed some time after the GPU's end."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the threads of the notifier."""


class Polling(Notifier):
    """A notifier that checks the event from a timer of the loop."""

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop, every_seconds: float) -> None:
        super().__init__(device, loop)
        self.every_seconds = every_seconds

    def begin(self, busy_ns: int, future: "asyncio.Future[None]") -> None:
        """Launch work and complete the future, as `Notifier.begin`."""
        self._check(self.device.launch(busy_ns, blocking=False), future)

    def _check(self, event: Event, future: "asyncio.Future[None]") -> None:
        if event.is_done():
            future.set_result(None)
        else:
            self.loop.call_later(self.every_seconds, self._check, event, future)


class Threaded(Notifier):
    """A notifier with a thread that waits, asleep or spinning, as a lane's thread does."""

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop, *, spins: bool) -> None:
        super().__init__(device, loop)
        self.spins = spins
        self._work: queue.SimpleQueue[tuple[int, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="waits for the GPU")
        self._thread.start()

    def begin(self, busy_ns: int, future: "asyncio.Future[None]") -> None:
        """Launch work and complete the future, as `Notifier.begin`."""
        self._work.put((busy_ns, future))

    def close(self) -> None:
        """Stop the thread."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        self.device.use()
        while (work := self._work.get()) is not None:
            busy_ns, future = work
            event = self.device.launch(busy_ns, blocking=not self.spins)
            if self.spins:
                while not event.is_done():
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
    """The other work of a busy loop: one slice of computing at every iteration."""

    def __init__(self) -> None:
        self.slices = 0
        self._stop = False

    async def run(self) -> None:
        """Work until `stop` is called."""
        clock = time.perf_counter
        while not self._stop:
            ends = clock() + SLICE_SECONDS
            while clock() < ends:
                pass
            self.slices += 1
            await asyncio.sleep(0)

    def stop(self) -> None:
        """Make `run` return."""
        self._stop = True


@dataclass
class WakeupTimes:
    """The wake-ups of a way of waiting, each as `(GPU's time, host's time)` in ns, its CPU time and the other work."""

    wakeups: list[tuple[int, int]]
    cores_used: float
    slices_per_second: float

    def summarize(self, first: Clock, last: Clock) -> dict[str, float]:
        """Summarize latencies in microseconds, by the clocks as compared before and after, without the first five."""
        late = np.array([woke - convert_to_host_ns(first, last, stamp) for stamp, woke in self.wakeups[5:]]) / 1e3
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


async def measure(notifier: Notifier, seconds: float, *, busy: bool) -> WakeupTimes:
    """Run the GPU again and again, and record when this coroutine continues."""
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
    return WakeupTimes(wakeups, used / took, other.slices / took)


def run(suite: Suite) -> None:
    """Measure every way of waiting on both loops."""
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
                    with suite.run_part(f"wakeup: {way}, {'busy' if busy else 'idle'} loop"):
                        first = calibrate(device.kernels, device.stream)
                        seen = runner.run(_measure_way(device, way, suite.seconds, busy=busy))
                        figures = seen.summarize(first, calibrate(device.kernels, device.stream))
                        result.append("cells", {"way": way, "loop": "busy" if busy else "idle", **figures})
    finally:
        device.close()
    _print(result.content.get("cells", []))


async def _measure_way(device: Device, way: str, seconds: float, *, busy: bool) -> WakeupTimes:
    notifier = WAYS[way](device, asyncio.get_running_loop())
    try:
        return await measure(notifier, seconds, busy=busy)
    finally:
        notifier.close()


def _print(cells: list[dict[str, Any]]) -> None:
    head = ("way", "loop", "p50 us", "p99 us", "least us", "cores", "other slices/s", "clock +- us")
    keys = (
        "way",
        "loop",
        "p50_us",
        "p99_us",
        "least_us",
        "cores_used",
        "other_slices_per_second",
        "clock_uncertainty_us",
    )
    print_table("From the GPU's end to the coroutine", head, [tuple(cell[name] for name in keys) for cell in cells])
