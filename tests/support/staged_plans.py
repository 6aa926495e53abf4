"""Plans of several stages in one file, and what is asked of the lanes that run them."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from streamd.core.errors import BackendUnavailableError
from streamd.inference.fake import make_fake_forecast
from streamd.inference.tensorrt.lane import TensorRtLane
from streamd.inference.tensorrt.plan_file import ALTERNATIVES_MAGIC, STAGES_MAGIC
from tests.support.contracts import make_contract

CONTRACT = make_contract()
BUCKETS = (1, 4, 8)
STATIC = [[bucket] * 3 for bucket in BUCKETS]
SHAPES = CONTRACT.input_shapes
WINDOW = SHAPES["encoder_cont"]

Said = dict[str, Any]
MAGICS = STAGES_MAGIC, ALTERNATIVES_MAGIC


def three_stages() -> list[Said]:
    """A scaler, a core and a restorer; two of them read the same input, and the core has the largest scratch memory."""
    categories = {name: ["int32", shape] for name, shape in SHAPES.items() if name.endswith("_cat")}
    others = {name: ["float32", shape] for name, shape in SHAPES.items() if name not in (*categories, "encoder_cont")}
    return copy.deepcopy(
        [
            {
                "name": "scaler",
                "profiles": STATIC,
                "scratch": 1024,
                "reads": {"encoder_cont": ["float32", WINDOW]},
                "gives": {"scaled": ["float32", WINDOW, "double encoder_cont"]},
            },
            {
                "name": "core",
                "profiles": STATIC,
                "scratch": 8192,
                "reads": {"scaled": ["float32", WINDOW], **categories, **others},
                "gives": {"middle": ["float32", WINDOW, "halve scaled"]},
            },
            {
                "name": "restorer",
                "profiles": STATIC,
                "scratch": 2048,
                "reads": {"middle": ["float32", WINDOW], "encoder_cat": categories["encoder_cat"]},
                "gives": {"predictions": ["float32", CONTRACT.output_shape, "forecast middle"]},
            },
        ]
    )


def expect_right(lane: TensorRtLane, count: int, seed: int) -> None:
    lane.inputs.encoder_cont[:] = np.random.default_rng(seed).random(lane.inputs.encoder_cont.shape)
    forecasts = lane.run(count)
    for row in range(count):
        np.testing.assert_array_equal(forecasts[row], make_fake_forecast(CONTRACT, lane.inputs.encoder_cont[row]))


def expect_refused_wherever_cut(content: bytes, unpack: Callable[[bytes], object]) -> None:
    for end in range(len(content)):
        with pytest.raises(BackendUnavailableError, match=f"^{end} bytes.*expected"):
            unpack(content[:end])
    with pytest.raises(BackendUnavailableError, match=f"{len(content) + 1} bytes.*expected {len(content)}"):
        unpack(content + b"\0")


def altered(content: bytes, data: st.DataObject) -> bytearray:
    """The content with one to four of its bytes changed, or drawn as they were."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    return changed
