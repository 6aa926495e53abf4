"""Tests `streamd/tools/loadtest/received_values.py`: unknown targets are no faults, and other NaN are."""

from typing import Any

import msgspec
import numpy as np
import pytest

from streamd.tools.loadtest.quantiles import count_faults
from streamd.tools.loadtest.received_values import read_values
from streamd.tools.loadtest.wire import decode_forecasts

TARGETS = ["cpu", "mem"]
KNOWN = [[1.0, 2.0], [1.0, 3.0]]
NAN = [[np.nan, np.nan]] * 2


def encode(values: Any, unknown: list[Any], *, is_json: bool, is_batch: bool) -> bytes | str:
    """Encode a frame; in JSON a target of NaN is null."""
    head = {"type": "forecasts" if is_batch else "forecast", "targets": TARGETS, "quantiles": [0.1, 0.9]}
    if unknown:
        head["unknown"] = unknown
    if is_json:
        lists = [[None if np.isnan(target).all() else target for target in each] for each in values]
        return msgspec.json.encode(head | {"values": lists if is_batch else lists[0]}).decode()
    array = np.array(values, np.float16)
    array = array if is_batch else array[0]
    return msgspec.msgpack.encode(
        head | {"values": {"shape": list(array.shape), "dtype": "float16", "data": array.tobytes()}}
    )


def read(values: Any, unknown: list[Any], *, is_json: bool = False, is_batch: bool = True) -> np.ndarray:
    return read_values(decode_forecasts(encode(values, unknown, is_json=is_json, is_batch=is_batch)))


@pytest.mark.parametrize("is_json", [True, False])
def test_an_unknown_target_is_no_fault(is_json: bool) -> None:
    assert count_faults(read([[KNOWN, NAN], [KNOWN, KNOWN]], [["mem"], []], is_json=is_json)) == (0, 0)
    one = read([[NAN, KNOWN]], ["cpu"], is_json=is_json, is_batch=False)
    assert one.shape == (1, 2, 2, 2)
    assert count_faults(one) == (0, 0)


@pytest.mark.parametrize("is_json", [True, False])
def test_a_forecast_without_any_known_target_is_read(is_json: bool) -> None:
    assert count_faults(read([[NAN, NAN]], [TARGETS], is_json=is_json)) == (0, 0)


@pytest.mark.parametrize("unknown", [[], [["cpu"], []], [[], ["mem"]]])
def test_nan_that_is_not_stated_is_a_fault(unknown: list[list[str]]) -> None:
    disordered, _ = count_faults(read([[KNOWN, NAN], [KNOWN, KNOWN]], unknown))
    assert disordered >= 1


def test_a_number_where_a_target_is_stated_as_unknown_is_a_fault() -> None:
    assert count_faults(read([[KNOWN, KNOWN]], [["mem"]])) == (1, 0)
    assert count_faults(read([[KNOWN, [[np.nan, 1.0], [1.0, 2.0]]]], [["mem"]])) == (1, 0)


@pytest.mark.parametrize("unknown", [[["disk"]], [["mem"], ["mem"]], ["mem"]])
def test_a_frame_that_is_not_of_the_contract_is_refused(unknown: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"not in list|lists of unknown|is not in"):
        read([[KNOWN, NAN]], unknown)


def test_a_frame_without_values_is_refused() -> None:
    with pytest.raises((TypeError, IndexError, ValueError)):
        count_faults(read_values(decode_forecasts(b"\x81\xa4type\xa8forecast")))
