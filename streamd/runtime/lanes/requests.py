"""Callers' windows in a batch: copied into a lane's inputs, and answered, those of one call together."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from streamd.core.arrays import Float32
from streamd.core.errors import InferenceError, InvalidInputError
from streamd.core.scheduling.batches import RequestItem
from streamd.inference.lane import Inputs
from streamd.runtime.window_checks import find_faults


class Request(Protocol):
    """The windows of a call."""

    is_checked: bool
    """Whether the numbers of its windows are known to be right; if not, they are checked in the lane's inputs."""

    def fill(self, first: int, count: int, inputs: Inputs, row: int) -> None:
        """Copy `count` windows from `first` on into a lane's inputs, from row `row` on."""
        ...

    def answer(self, first: int, forecasts: Float32, model: str) -> None:
        """Take the forecasts `(count, targets, horizon, quantiles)` of the windows from `first` on, made by `model`.

        They do not change any more.
        """
        ...

    def fail(self, index: int, error: InferenceError) -> None:
        """Note that window `index` has no forecast."""
        ...

    def refuse(self, error: InvalidInputError) -> None:
        """End the call: one of its windows, which were not checked before, must not run."""
        ...


def get_request(item: RequestItem) -> Request:
    """Return the request of an item, which the scheduler knows only as an object."""
    request: Request = item.request  # type: ignore[assignment]
    return request


def fill_requests(items: Sequence[RequestItem], inputs: Inputs, row: int) -> None:
    """Copy callers' windows into a lane's inputs, from row `row` on. Those not checked before are, all at once.

    A window that must not run is replaced by zeros, and its call ends.
    """
    unchecked: list[int] = []
    for begin, end in find_runs(items, range(len(items))):
        request = get_request(items[begin])
        request.fill(items[begin].index, end - begin, inputs, row + begin)
        if not request.is_checked:
            unchecked += range(row + begin, row + end)
    if unchecked:
        _check_rows(items, unchecked, inputs, row)


def _check_rows(items: Sequence[RequestItem], unchecked: Sequence[int], inputs: Inputs, row: int) -> None:
    """Refuse the calls of which an unchecked row is wrong; rows of checked calls among them are right."""
    for wrong, error in find_faults(inputs, unchecked[0], unchecked[-1] + 1):
        for array in inputs.view_rows(wrong, wrong + 1).values():
            array[:] = 0
        get_request(items[wrong - row]).refuse(error)


def answer_requests(answers: Sequence[tuple[int, RequestItem]], forecasts: Float32, model: str) -> None:
    """Pass the forecasts `(rows, targets, horizon, quantiles)` of a batch on to its calls.

    `answers` are callers' windows with their rows, in rising order of the rows.
    """
    items, rows = [item for _, item in answers], [row for row, _ in answers]
    for begin, end in find_runs(items, rows):
        row = rows[begin]
        get_request(items[begin]).answer(items[begin].index, forecasts[row : row + end - begin], model)


def find_runs(items: Sequence[RequestItem], rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the begin and the end of each run of successive windows of one call in successive rows."""
    begin = 0
    for place in range(1, len(items)):
        item, before = items[place], items[place - 1]
        if not (
            item.request is before.request and item.index == before.index + 1 and rows[place] == rows[place - 1] + 1
        ):
            yield begin, place
            begin = place
    if items:
        yield begin, len(items)
