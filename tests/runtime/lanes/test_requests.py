"""Tests `streamd/runtime/lanes/requests.py`: windows reach their rows, those of one call together."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import InvalidInputError
from streamd.core.scheduling.batches import RequestItem
from streamd.inference.lane import Inputs
from streamd.runtime.lanes.requests import answer_requests, fill_requests, find_runs
from tests.support.naive_inputs import CONTRACT, make_full_inputs


class NotedRequest:
    """A request that notes its calls."""

    def __init__(self, is_checked: bool = True) -> None:
        self.is_checked = is_checked
        self.refused: list[str] = []
        self.filled: list[tuple[int, int, int]] = []
        self.answered: list[tuple[int, list[float], str]] = []

    def fill(self, first: int, count: int, inputs: Inputs, row: int) -> None:
        self.filled.append((first, count, row))

    def refuse(self, error: InvalidInputError) -> None:
        self.refused.append(str(error))

    def answer(self, first: int, forecasts: Any, model: str) -> None:
        self.answered.append((first, forecasts[:, 0, 0, 0].tolist(), model))


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[NotedRequest], list[RequestItem]]:
    """Windows of three calls, some in a row and some not."""
    requests = [NotedRequest() for _ in range(3)]
    picked = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 4)), max_size=6))
    items = [
        RequestItem(requests[number], index, 0.0)
        for number, first, count in picked
        for index in range(first, first + count)
    ]
    return requests, items


@given(batches(), st.data())
def test_each_window_is_filled_into_its_row_and_gets_the_forecast_of_its_row(
    batch: tuple[list[NotedRequest], list[RequestItem]], data: st.DataObject
) -> None:
    requests, items = batch
    begin = data.draw(st.integers(0, 3))
    fill_requests(items, None, begin)  # type: ignore[arg-type]
    rows = list(range(begin, begin + len(items)))
    filled = sorted(
        (row + place, number, first + place)
        for number, request in enumerate(requests)
        for first, count, row in request.filled
        for place in range(count)
    )
    numbers = {id(request): number for number, request in enumerate(requests)}
    expected = [(row, numbers[id(item.request)], item.index) for row, item in zip(rows, items, strict=True)]
    assert filled == expected
    is_bad = data.draw(st.lists(st.booleans(), min_size=len(items), max_size=len(items)))
    answers = [each for each, bad in zip(zip(rows, items, strict=True), is_bad, strict=True) if not bad]
    forecasts = np.arange(begin + len(items), dtype=np.float32)[:, None, None, None]
    answer_requests(answers, forecasts, "m")
    answered = sorted(
        (row, number, first + place)
        for number, request in enumerate(requests)
        for first, found, _ in request.answered
        for place, row in enumerate(found)
    )
    assert answered == [(row, numbers[id(item.request)], item.index) for row, item in answers]


def test_a_call_of_many_windows_is_one_run() -> None:
    call, other = NotedRequest(), NotedRequest()
    items = [RequestItem(call, index, 0.0) for index in range(5)] + [RequestItem(other, 5, 0.0)]
    assert list(find_runs(items, range(6))) == [(0, 5), (5, 6)]
    assert list(find_runs([], [])) == []


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), min_size=1, max_size=4), st.data())
def test_a_window_that_must_not_run_ends_its_call_and_is_zero(
    calls: list[tuple[bool, int]], data: st.DataObject
) -> None:
    requests = [NotedRequest(is_checked) for is_checked, _ in calls]
    items = [
        RequestItem(request, index, 0.0)
        for request, (_, windows) in zip(requests, calls, strict=True)
        for index in range(windows)
    ]
    inputs = Inputs(**make_full_inputs(len(items) + 1))
    before = {name: array.copy() for name, array in inputs.view_first(len(items) + 1).items()}
    wrong = [
        row
        for row, item in enumerate(items, 1)
        if not item.request.is_checked and data.draw(st.booleans())  # type: ignore[attr-defined]
    ]
    inputs.encoder_cat[wrong, 0, 0] = -1
    fill_requests(items, inputs, 1)  # a noted request fills nothing
    refused = [request for request in requests if request.refused]
    assert refused == [request for request in requests if any(items[row - 1].request is request for row in wrong)]
    for name, array in inputs.view_first(len(items) + 1).items():
        expected = before[name]
        expected[wrong] = 0
        np.testing.assert_array_equal(array, expected)
        assert array.shape[1:] == CONTRACT.input_shapes[name]
