"""Cuts the points of a body into slices, each of which fits into one turn of the event loop. Takes no point itself."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from operator import itemgetter

from streamd.runtime.aggregation.batch import Points
from streamd.runtime.aggregation.servers import NO_SLOT, CollectedServer

COMMIT_SLICE_POINTS = 1_000
"""The number of points that are taken in one turn of the event loop. Each may belong to another step and so complete a
row, which takes a tenth of a millisecond."""

SLICE_WORK = 20_000
"""The series whose values are computed before the event loop gets its turn, which takes 2 µs each."""

_ROW_WORK, _POINTS_WORK, _NEW_SERVER_WORK = 50, 10, 200
"""A row without series takes as long as so many of them, so many points as long as one, and to admit a server, whose
window is emptied, as so many."""


def slice_points(
    batch: Mapping[CollectedServer, Points], step_seconds: int
) -> Iterator[list[tuple[CollectedServer, Points]]]:
    """Yield the points of a batch in slices, each of which the loop has time for."""
    work: list[tuple[CollectedServer, Points]] = []
    size = rows_work = 0
    for server, points in batch.items():
        row_work = estimate_row_work(server)
        # Without the points that are kept: they belong to few steps, and are gone after these.
        max_steps = max(SLICE_WORK // (_ROW_WORK + len(server.entries)), 1)
        for part in _split_points(points, max_steps, step_seconds):
            work.append((server, part))
            size += len(part)
            rows_work += row_work
            if size >= COMMIT_SLICE_POINTS or rows_work >= SLICE_WORK:
                yield work
                work, size, rows_work = [], 0, 0
    if work:
        yield work


def estimate_row_work(server: CollectedServer) -> int:
    """Return how long a row of a server takes to compute, in the unit of `SLICE_WORK`."""
    new = _NEW_SERVER_WORK if server.slot == NO_SLOT else 0
    return _ROW_WORK + len(server.entries) + server.count_points() // _POINTS_WORK + new


def _split_points(points: Points, max_steps: int, step_seconds: int) -> Iterator[Points]:
    """Yield the points of a server in parts of at most `COMMIT_SLICE_POINTS` points and `max_steps` steps.

    The parts are in order of time: the points of one must not make those of a later one too old.
    """
    if len(points) <= COMMIT_SLICE_POINTS:
        times = [time for _, time, _ in points]
        if len(points) <= max_steps or max(times) // step_seconds - min(times) // step_seconds < max_steps:
            yield points
            return
    points.sort(key=itemgetter(1))
    begin = 0
    while begin < len(points):
        last = points[begin][1] // step_seconds + max_steps
        end = min(begin + COMMIT_SLICE_POINTS, len(points))
        end = max(bisect_left(points, last * step_seconds, begin, end, key=itemgetter(1)), begin + 1)
        yield points[begin:end]
        begin = end
