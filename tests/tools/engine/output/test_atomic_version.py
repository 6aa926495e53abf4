"""Tests `streamd/tools/engine/output/atomic_version.py`: JSON that every reader takes, with numbers of any type."""

import json
from pathlib import Path

import numpy as np
import pytest

from streamd.tools.engine.output.atomic_version import write_json


def test_numbers_of_numpy_are_written_as_numbers_and_nan_as_null(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    write_json(path, {"loss": np.float64(0.25), "count": np.int64(3), "worst": float("nan"), "empty": {}})
    assert json.loads(path.read_text()) == {"loss": 0.25, "count": 3, "worst": None, "empty": {}}
    assert path.read_text().endswith("}\n")


def test_a_value_that_json_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        write_json(tmp_path / "info.json", {"a": object()})
    assert not (tmp_path / "info.json").exists()
