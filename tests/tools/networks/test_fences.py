"""Tests `streamd/tools/networks/fences.py`: one absurd value is left out, and a surge is not."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from streamd.tools.networks.fences import LIMIT, Fence, count_classes, find_isolated  # noqa: E402

STEPS, CLASSES = 48, 12
NUMBERS = st.floats(-1e6, 1e6, width=32)
SERIES = st.lists(NUMBERS | st.none(), min_size=STEPS, max_size=STEPS)


def to_tensors(values: list[float | None]) -> tuple[Any, Any]:
    filled = torch.tensor([0.0 if value is None else value for value in values])
    return filled.view(1, 1, -1), torch.tensor([value is not None for value in values]).view(1, 1, -1)


def find_limits(values: list[float | None], are_days: bool, needed: int) -> tuple[float, float]:
    """Return the limits by the definition, with sorts."""
    each = len(values) // CLASSES
    classes: list[list[float]] = [[] for _ in range(CLASSES)]
    for step, value in enumerate(values):
        if value is not None:
            classes[step // each if are_days else step % CLASSES].append(value)
    known = [members for members in classes if members]
    if len(known) < needed:
        return -LIMIT, LIMIT
    top, bottom = sorted(map(max, known))[-3], sorted(map(min, known))[2]
    return bottom - 8 * (top - bottom), top + 8 * (top - bottom)


@given(SERIES, st.booleans(), st.sampled_from([3, 8]))
def test_limits_are_those_of_the_definition(values: list[float | None], are_days: bool, needed: int) -> None:
    lower, upper = Fence(CLASSES, are_days=are_days, needed=needed)(*to_tensors(values))
    assert lower.shape == upper.shape == (1, 1, 1)
    np.testing.assert_allclose([float(lower), float(upper)], find_limits(values, are_days, needed), rtol=1e-5, atol=1.0)


@given(SERIES)
def test_a_value_is_left_out_if_it_alone_is_beyond_the_limits(values: list[float | None]) -> None:
    filled, seen = to_tensors(values)
    lower, upper = torch.tensor([[[-1e3]]]), torch.tensor([[[2e3]]])
    found = find_isolated(filled, seen, lower, upper)[0, 0].tolist()
    beyond = [value is not None and not -1e3 <= value <= 2e3 for value in values]
    around = zip([False, *beyond[:-1]], beyond, [*beyond[1:], False], strict=True)
    assert found == [here and not (before or after) for before, here, after in around]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7])
def test_few_values_are_all_believed_however_far_apart(count: int) -> None:
    values: list[float | None] = [None] * STEPS
    for number in range(count):
        values[5 * number] = float(10**number)
    filled, seen = to_tensors(values)
    assert not find_isolated(filled, seen, *Fence(CLASSES)(filled, seen)).any()


def test_with_fewer_classes_than_are_needed_nothing_is_beyond_the_limits() -> None:
    lower, upper = Fence(7)(*to_tensors([1.0] * 49))
    assert [float(lower), float(upper)] == pytest.approx([-LIMIT, LIMIT])


@pytest.mark.parametrize(
    ("steps", "most", "expected"), [(288, 32, 32), (168, 7, 7), (24, 32, 24), (37, 32, 1), (12, 7, 6)]
)
def test_steps_are_dealt_evenly_into_as_many_classes_as_possible(steps: int, most: int, expected: int) -> None:
    assert count_classes(steps, most) == expected
