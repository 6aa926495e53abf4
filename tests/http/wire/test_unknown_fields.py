"""Tests `streamd/http/wire/unknown_fields.py`: names of unknown targets, and null in place of their values."""

import json

import numpy as np
import pytest

from streamd.http.wire.codecs import Encoding, encode
from streamd.http.wire.unknown_fields import describe_unknown, list_values

NAMES = ["mem", "cpu"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_unknown_target_is_null_as_a_whole(dtype: str) -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2).astype(dtype)
    values[1] = np.nan
    unknown = np.array([False, True])
    assert describe_unknown(NAMES, unknown) == {"unknown": ["cpu"]}
    assert json.loads(encode(list_values(values, unknown), Encoding.JSON)) == [[[0, 1], [2, 3], [4, 5]], None]


def test_of_several_forecasts_each_has_its_own_list() -> None:
    values = np.zeros((3, 2, 1, 1), np.float32)
    unknown = np.array([[False, False], [True, False], [True, True]])
    assert describe_unknown(NAMES, unknown) == {"unknown": [[], ["mem"], ["mem", "cpu"]]}
    assert json.loads(encode(list_values(values, unknown), Encoding.JSON)) == [
        [[[0.0]], [[0.0]]],
        [None, [[0.0]]],
        [None, None],
    ]


@pytest.mark.parametrize("shape", [(2,), (3, 2)])
def test_without_an_unknown_target_nothing_is_added(shape: tuple[int, ...]) -> None:
    values = np.zeros((*shape, 4, 5), np.float32)
    assert describe_unknown(NAMES, np.zeros(shape, np.bool_)) == {}
    assert list_values(values, np.zeros(shape, np.bool_)) is values
