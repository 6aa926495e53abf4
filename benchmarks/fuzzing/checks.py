"""What must hold of every body: a sink that checks what a decoder writes, and the use of memory."""

import math
import re
import signal
import struct
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from time import perf_counter
from types import FrameType

from streamd.core.errors import StreamdError
from streamd.core.mapping.series import Kind, SourceSeries

MAX_LABELS = 70
"""64 of the sender, and what decoders add."""

MAX_TEXT_BYTES = 2_100
"""Of a name (measurement and field have 1,024 each) and of each label."""

MAX_MESSAGE_CHARACTERS = 4_000
MAX_SKIP_REASONS = 30
MAX_WARM_SERIES = 20_000

SENTINEL = "sentinel-host"
"""The server whose points must be there whatever is beside them."""

CheckedPoint = tuple[str, tuple[tuple[str, str], ...], Kind | None, float, bytes]
"""Name, labels, kind, time, and the bits of the value."""


class Finding(Exception):  # noqa: N818 (it is a finding, and no error of the program that looks for it)
    """A rule that a decoder broke."""


class CheckingSink:
    """A sink that checks each call and keeps the points of one body; `warm` has the series of earlier bodies."""

    def __init__(self, warm: dict[Hashable, SourceSeries] | None = None) -> None:
        self.points: list[tuple[SourceSeries, float, float]] = []
        self.rejected: Counter[str] = Counter()
        """Points, by class and kind of message."""
        self.skipped: Counter[str] = Counter()
        self.ignored = 0
        self._bound: dict[Hashable, SourceSeries] = {} if warm is None else warm
        if len(self._bound) > MAX_WARM_SERIES:
            self._bound.clear()

    def wants(self, name: str) -> bool:
        """Say that a few metrics are not wanted."""
        if not isinstance(name, str):
            raise Finding(f"wants: {name!r:.200} is no text")
        return not name.startswith(("go_", "process_"))

    def ignore(self, count: int = 1) -> None:
        """Count points that no rule wants."""
        if count < 1:
            raise Finding(f"ignore: {count} points")
        self.ignored += count

    def find(self, key: Hashable) -> SourceSeries | None:
        """Return the series of a key."""
        return self._bound.get(key)

    def bind(self, key: Hashable, series: SourceSeries) -> SourceSeries:
        """Check a new series."""
        if key in self._bound:
            raise Finding(f"bind: {key!r:.200} is known, and was not looked for")
        _check_series(series)
        self._bound[key] = series
        return series

    def add(self, entry: SourceSeries, time: float, value: float) -> None:
        """Check a point."""
        if not isinstance(entry, SourceSeries):
            raise Finding(f"add: {entry!r:.200} is no entry")
        if not math.isfinite(time):
            raise Finding(f"add: the time is {time!r:.100}")
        if math.isinf(value):
            raise Finding(f"add: the value is {value!r:.100}")
        self.points.append((entry, time, value))

    def add_point(self, series: SourceSeries, time: float, value: float) -> None:
        """Check a series and its point."""
        _check_series(series)
        self.add(series, time, value)

    def reject(self, error: StreamdError, count: int = 1, entry: SourceSeries | None = None) -> None:
        """Check a rejection."""
        if not isinstance(error, StreamdError):
            raise Finding(f"reject: {error!r:.200} is no StreamdError")
        if count < 1:
            raise Finding(f"reject: {count} points")
        _check_message(error)
        self.rejected[f"rejected {describe_error(error)}"] += count

    def skip(self, reason: str, count: int = 1) -> None:
        """Check a skipped point."""
        if not isinstance(reason, str):
            raise Finding(f"skip: {reason!r:.200} is no text")
        if count < 1:
            raise Finding(f"skip: {count} points")
        self.skipped[reason] += count

    def list_points(self) -> list[CheckedPoint]:
        """Return the points in a form that can be compared."""
        return [
            (series.name, tuple(sorted(series.labels.items())), series.kind, time, struct.pack("<d", value))
            for series, time, value in self.points
        ]

    def count_sentinels(self) -> int:
        """Return the points of the sentinel."""
        return sum(SENTINEL in series.labels.values() and value == 4.25 for series, _, value in self.points)


def _check_series(series: SourceSeries) -> None:
    texts = [series.name, *series.labels, *series.labels.values()]
    if not all(isinstance(text, str) for text in texts):
        raise Finding(f"bind: not all is text in {series!r:.300}")
    if not series.name or len(series.labels) > MAX_LABELS:
        raise Finding(f"bind: the name is {series.name!r:.100}, and there are {len(series.labels)} labels")
    longest = max(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    if longest > MAX_TEXT_BYTES:
        raise Finding(f"bind: a text of {longest} bytes")


def _check_message(error: StreamdError) -> None:
    if len(str(error)) > MAX_MESSAGE_CHARACTERS:
        raise Finding(f"a message of {len(str(error))} characters: {error!s:.200}")


_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


def describe_error(error: BaseException) -> str:
    """Return the class of an error and the kind of its message: without what it quotes and without numbers."""
    text = _QUOTED.sub("_", str(error))
    text = re.sub(r"[0-9]+", "0", text)
    return f"{type(error).__name__}: {text[:90]}".encode("ascii", "backslashreplace").decode()


# ---------------------------------------------------------------- one body
MAX_BODY_SECONDS = 60
"""A decoder that takes longer hangs; bodies have up to 1 MiB, and machines are slow at times."""


def _raise_hang(signal_number: int, frame: FrameType | None) -> None:
    raise Finding(f"takes over {MAX_BODY_SECONDS} s")


class RunCost:
    """The cost of decoding one body."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slice_seconds = 0.0
        """The longest time between two turns of the loop."""


def drain(turns: Callable[[], Iterator[None]], cost: RunCost) -> StreamdError | None:
    """Run a decoder to its end; returns the error of its refusal. Raises `Finding` for any other error."""
    began = last = perf_counter()
    refusal = None
    signal.signal(signal.SIGALRM, _raise_hang)
    signal.alarm(MAX_BODY_SECONDS)
    try:
        for _ in turns():
            now = perf_counter()
            cost.slice_seconds, last = max(cost.slice_seconds, now - last), now
    except StreamdError as error:
        _check_message(error)
        refusal = error
    except Finding:
        raise
    except Exception as error:
        raise Finding(f"raised {type(error).__name__}: {error!s:.300}") from error
    finally:
        signal.alarm(0)
    now = perf_counter()
    cost.slice_seconds = max(cost.slice_seconds, now - last)
    cost.seconds = now - began
    return refusal


# ---------------------------------------------------------------- memory
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def read_resident_bytes(name: str = "VmRSS") -> int:
    """Return the resident bytes of this process now, or with `VmHWM` at most since `reset_peak`."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak() -> bool:
    """Have the kernel measure the peak from now on; returns whether it can."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
