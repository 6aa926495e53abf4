"""Tests `benchmarks/gpu/fused/pack.py`: the kernel is of one network, and any other is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.fused.pack import KERNEL_VERSIONS, OtherNetworkError, pack, pack_left, pack_right

ENGINES = Path(__file__).parents[2] / "engines"


@pytest.mark.parametrize("architecture", ["patch_forecaster", "temporal_fusion_transformer"])
def test_versions_that_ship_are_refused_by_name(architecture: str) -> None:
    manifests = {path.parent: json.loads(path.read_text()) for path in ENGINES.glob("*/config.json")}
    (folder,) = (each for each, manifest in manifests.items() if manifest["architecture"] == architecture)
    with pytest.raises(OtherNetworkError, match=f"the network of {folder.name}; expected one of {KERNEL_VERSIONS[0]}"):
        pack(folder)


def test_packing_keeps_each_number_once() -> None:
    matrix = np.arange(64 * 32, dtype=np.float32).reshape(64, 32)
    for packed in (pack_right(matrix), pack_left(matrix)):
        assert packed.size == matrix.size
        assert np.array_equal(np.sort(packed, axis=None), np.sort(matrix.astype(np.float16), axis=None))
