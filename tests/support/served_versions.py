"""Engine versions with tiny graphs whose forecasts show which version made them.

`CALENDAR` returns its calendar input, `WINDOW` the newest rows of its window.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.calendar import compute_known_future
from streamd.core.contract import ModelContract
from tests.support.made_versions import make, state_contract
from tests.support.onnx_bytes import identity_model, tensors_of

CONTRACT = ModelContract(
    features=("a", "b", "c", "d"),
    targets=("a",),
    quantiles=(0.1, 0.4, 0.6, 0.9),
    context_length=4,
    horizon=4,
    step_seconds=60,
    architecture="fake",
)
CALENDAR = "calendar_20260101_000000"
WINDOW = "window_20260102_000000"
COPIED = {CALENDAR: "decoder_cont", WINDOW: "encoder_cont"}
FIRST_STEP = 28_000_000

SETTINGS = {"STREAMD_MIN_CONTEXT_ROWS": "4", "STREAMD_ADMIN_TOKEN": "a token"}
AUTHORIZED = {"Authorization": "Bearer a token"}


def make_version(root: Path, name: str, copied: str, contract: ModelContract = CONTRACT, **manifest: Any) -> Path:
    """Make a version whose forecast is a copy of its input `copied`."""
    stated = state_contract(contract) | {
        "architecture": contract.architecture,
    }
    path = make(root, name, **{**stated, **manifest})
    *inputs, output = tensors_of(contract).values()
    (path / "model.onnx").write_bytes(identity_model(inputs, [output], copied, "predictions"))
    return path


def make_both(root: Path) -> Path:
    """Make both versions in a folder and return the folder."""
    for name, copied in COPIED.items():
        make_version(root, name, copied)
    return root


def values_of(number: int, step: int) -> list[float]:
    """Return the values of server `number` in a step; no other server and step has the same."""
    return [number * 65_536.0 + (step - FIRST_STEP) + place / 4 for place in range(4)]


def samples_of(number: int, steps: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "server": f"s{number}",
            "time": step * CONTRACT.step_seconds,
            "values": dict(zip(CONTRACT.features, values_of(number, step), strict=True)),
        }
        for step in steps
    ]


def expected_of(model: str, number: int, step: int) -> npt.NDArray[np.float32]:
    """Return the forecast of a version in the order of the wire: `(targets, steps, quantiles)`."""
    if model == CALENDAR:
        rows = compute_known_future(step, CONTRACT.horizon, CONTRACT.step_seconds)
    else:
        rows = np.array([values_of(number, each) for each in range(step - 3, step + 1)], np.float32)
    return np.sort(rows, axis=1)[None]
