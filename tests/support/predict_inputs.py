"""Inputs of calls of `/v1/predict`, right ones and wrong ones, and the answers of the fake network to them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.contract import ModelContract
from streamd.inference.fake import make_fake_forecast
from tests.support.http_harness import CONTRACT, Message, make_tensor

Inputs = dict[str, npt.NDArray[Any]]


def make_inputs(windows: int, contract: ModelContract = CONTRACT) -> Inputs:
    """Make complete inputs with the batch axis; all windows differ."""
    random = np.random.default_rng(windows)
    given: Inputs = {}
    for name, shape in contract.input_shapes.items():
        if name.endswith("_cat"):
            given[name] = np.ones((windows, *shape), "<i4")
        else:
            given[name] = random.random((windows, *shape), np.float32)
    given["encoder_cont"][:, 2, :] = np.nan
    return given


def compute_expected(given: Inputs, contract: ModelContract = CONTRACT) -> npt.NDArray[np.float32]:
    return np.stack([make_fake_forecast(contract, window) for window in given["encoder_cont"]])


def as_lists(given: Inputs) -> Message:
    """Return the inputs as nested lists for JSON, with null for missing values."""
    return {name: _nested(array.tolist()) for name, array in given.items()}


def _nested(value: Any) -> Any:
    if isinstance(value, list):
        return [_nested(each) for each in value]
    return None if value != value else value


def as_tensors(given: Inputs) -> Message:
    return {"inputs": {name: make_tensor(array) for name, array in given.items()}}


def make_changed_inputs(name: str, array: npt.NDArray[Any] | None) -> Inputs:
    given = make_inputs(2)
    if array is None:
        del given[name]
    else:
        given[name] = array
    return given


def make_inputs_with_cell(name: str, value: float) -> Inputs:
    given = make_inputs(2)
    given[name] = given[name].astype(np.asarray(value).dtype)
    given[name][1, 0, 1] = value
    return given


def make_missing_inputs() -> Inputs:
    given = make_inputs(2)
    given["encoder_cont"][1] = np.nan
    return given


SHAPES = CONTRACT.input_shapes
REFUSED: list[tuple[str, Inputs, str]] = [
    ("an input missing", make_changed_inputs("encoder_cont", None), "invalid_tensor"),
    ("the future missing", make_changed_inputs("decoder_cont", None), "invalid_tensor"),
    ("an input too many", make_changed_inputs("extra", np.zeros(1, "<f4")), "invalid_tensor"),
    ("a row too few", make_changed_inputs("encoder_cont", np.zeros((2, 7, 3), "<f4")), "invalid_tensor"),
    ("a feature too many", make_changed_inputs("encoder_cont", np.zeros((2, 8, 4), "<f4")), "invalid_tensor"),
    ("no window", make_changed_inputs("encoder_cont", np.zeros((0, 8, 3), "<f4")), "invalid_tensor"),
    (
        "another batch",
        make_changed_inputs("decoder_cont", np.zeros((3, *SHAPES["decoder_cont"]), "<f4")),
        "invalid_tensor",
    ),
    ("no batch in one", make_changed_inputs("decoder_cont", np.zeros(SHAPES["decoder_cont"], "<f4")), "invalid_tensor"),
    ("an axis too many", make_changed_inputs("encoder_cont", np.zeros((2, 1, 8, 3), "<f4")), "invalid_tensor"),
    ("a scalar", make_changed_inputs("encoder_cont", np.zeros((), "<f4")), "invalid_tensor"),
    ("infinity", make_inputs_with_cell("encoder_cont", float("inf")), "invalid_tensor"),
    ("beyond float32", make_inputs_with_cell("encoder_cont", -1e39), "invalid_tensor"),
    ("infinity in the future", make_inputs_with_cell("decoder_cont", float("-inf")), "invalid_tensor"),
    ("the future missing in part", make_inputs_with_cell("decoder_cont", float("nan")), "invalid_tensor"),
    ("all missing", make_missing_inputs(), "all_missing"),
    ("status 16", make_inputs_with_cell("encoder_cat", 16), "invalid_tensor"),
    ("status negative", make_inputs_with_cell("decoder_cat", -1), "invalid_tensor"),
    ("status a fraction", make_inputs_with_cell("encoder_cat", 1.5), "invalid_tensor"),
    ("status missing", make_inputs_with_cell("encoder_cat", float("nan")), "invalid_tensor"),
    ("status infinite", make_inputs_with_cell("encoder_cat", float("inf")), "invalid_tensor"),
    ("status beyond int32", make_inputs_with_cell("encoder_cat", 2**31), "invalid_tensor"),
    ("status that wraps to 0", make_inputs_with_cell("encoder_cat", -(2**63)), "invalid_tensor"),
    (
        "id negative",
        make_changed_inputs("encoder_cat", np.full((2, *SHAPES["encoder_cat"]), -1, "<i4")),
        "invalid_tensor",
    ),
]
