"""Tests `streamd/core/selection.py` against naive indexing and the globs of the standard library."""

from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamd.core.errors import InvalidSelectionError
from streamd.core.globs import MAX_PATTERNS
from streamd.core.selection import MAX_GLOBS, ServerGlobs, make_forecast_slice
from tests.support.contracts import make_contract

CONTRACT = make_contract(features=("a", "b", "c", "d"), targets=("c", "a", "b"), horizon=12)
TEXT = st.text(st.sampled_from("aB*?[]!-.^\\$|\n1"), max_size=6)


@given(st.lists(TEXT, max_size=4), TEXT)
@example(["[**-+]x"], "*x")
@example(["a|b"], "a")
@example(["A*"], "aa")
@example(["a"], "a\n")
@example(["***"], "")
@example(["db[1]"], "db[1]")
@example(["[2001:db8::1]:9100"], "[2001:db8::1]:9100")
def test_globs_are_names_first_and_shell_patterns_second(globs: list[str], name: str) -> None:
    expected = name in globs or any(fnmatchcase(name, glob) for glob in globs)
    assert ServerGlobs(globs).matches(name) == expected


@given(st.lists(TEXT, max_size=4), st.lists(TEXT, max_size=4), TEXT)
@example([], ["*"], "a")
@example([], ["db[1]"], "db1")
@example(["b*"], ["a"], "a")
def test_names_are_never_globs(globs: list[str], names: list[str], name: str) -> None:
    chosen = ServerGlobs(globs, names)
    assert chosen.matches(name) == (name in names or ServerGlobs(globs).matches(name))
    assert chosen.globs == (*globs, *names)


def test_no_glob_means_no_server() -> None:
    assert not ServerGlobs([]).matches("web-01")


def test_many_stars_are_matched_quickly() -> None:
    assert not ServerGlobs(["a*" * 500]).matches("a" * 250 + "b")


def test_too_many_globs_are_refused() -> None:
    with pytest.raises(InvalidSelectionError, match="globs"):
        ServerGlobs(["a"] * (MAX_GLOBS + 1))
    with pytest.raises(InvalidSelectionError, match="globs"):
        ServerGlobs(["a"] * (MAX_GLOBS - 1), ["b", "c"])
    with pytest.raises(InvalidSelectionError, match="globs with wildcards"):
        ServerGlobs([f"{number}*" for number in range(MAX_PATTERNS + 1)])


def test_names_are_cheap_and_limited_only_in_number() -> None:
    names = [f"web-{number:05}.example.com" for number in range(MAX_GLOBS)]
    chosen = ServerGlobs(names[:-1], names[-1:])
    assert chosen.matches(names[0])
    assert chosen.matches(names[-1])
    assert not chosen.is_costly


@st.composite
def choices(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "targets": draw(st.none() | st.permutations(CONTRACT.targets).map(lambda all_: all_[: 1 + len(all_) // 2])),
        "quantiles": draw(st.none() | st.lists(st.sampled_from(CONTRACT.quantiles), min_size=1, unique=True)),
        "every": draw(st.integers(1, CONTRACT.horizon)),
        "dtype": draw(st.sampled_from(["float32", "float16"])),
    }


@given(choices(), st.sampled_from([(), (1,), (5,)]))
def test_a_slice_is_the_result_of_naive_indexing(choice: dict[str, Any], batch: tuple[int, ...]) -> None:
    values = np.arange(np.prod((*batch, *CONTRACT.forecast_shape)), dtype=np.float32)
    values = values.reshape(*batch, *CONTRACT.forecast_shape)
    before = values.copy()
    cut = make_forecast_slice(CONTRACT, **choice).cut(values)
    targets = choice["targets"] or CONTRACT.targets
    quantiles = choice["quantiles"] or CONTRACT.quantiles
    steps = [step for step in range(1, CONTRACT.horizon + 1) if step % choice["every"] == 0]
    expected = [
        [
            [values[..., CONTRACT.targets.index(target), step - 1, CONTRACT.quantiles.index(q)] for q in quantiles]
            for step in steps
        ]
        for target in targets
    ]
    np.testing.assert_array_equal(cut, np.moveaxis(np.array(expected, choice["dtype"]), (0, 1, 2), (-3, -2, -1)))
    assert cut.dtype == choice["dtype"]
    assert cut.flags.c_contiguous
    np.testing.assert_array_equal(values, before)


def test_float16_values_have_no_infinity() -> None:
    values = np.full(CONTRACT.forecast_shape, 3e6, np.float32)
    values[0, 0, 0] = -3e6
    cut = make_forecast_slice(CONTRACT, None, None, dtype="float16").cut(values)
    assert cut.max() == 65504
    assert cut.min() == -65504


def test_equal_slices_are_one_key() -> None:
    assert (
        len(
            {
                make_forecast_slice(CONTRACT, None, None),
                make_forecast_slice(CONTRACT, CONTRACT.targets, CONTRACT.quantiles),
            }
        )
        == 1
    )


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        ({"targets": ["nothing"]}, "nothing"),
        ({"targets": []}, "targets is empty"),
        ({"targets": ["a", "a"]}, "twice"),
        ({"quantiles": [0.3]}, "quantiles"),
        ({"quantiles": []}, "quantiles is empty"),
        ({"quantiles": [0.1, float(np.float32(0.1))]}, "twice"),
        ({"quantiles": [0.5000000000000001]}, "quantiles has 0.5000000000000001, expected some of"),
        ({"quantiles": [float("nan")]}, "quantiles"),
        ({"every": 0}, "every"),
        ({"every": 13}, "every"),
        ({"dtype": "float64"}, "dtype"),
    ],
)
def test_unknown_parts_are_refused(choice: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidSelectionError, match=named):
        make_forecast_slice(CONTRACT, **{"targets": None, "quantiles": None, **choice})


def test_a_quantile_may_be_rounded_to_float32() -> None:
    assert make_forecast_slice(CONTRACT, None, [float(np.float32(0.1))]).quantiles == (0,)
