"""Tests `streamd/tools/engine/output/atomic_version.py`: JSON that every reader takes, with numbers of any type."""

import json
from pathlib import Path

import numpy as np
import pytest

from streamd.core.errors import RepositoryError
from streamd.repository.files import BUILDING_PREFIX
from streamd.tools.engine.output.atomic_version import HiddenFolder, write_json


def test_numbers_of_numpy_are_written_as_numbers_and_nan_as_null(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    write_json(path, {"loss": np.float64(0.25), "count": np.int64(3), "worst": float("nan"), "empty": {}})
    assert json.loads(path.read_text()) == {"loss": 0.25, "count": 3, "worst": None, "empty": {}}
    assert path.read_text().endswith("}\n")


def test_a_value_that_json_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        write_json(tmp_path / "info.json", {"a": object()})
    assert not (tmp_path / "info.json").exists()


def write_then_fail(path: Path) -> None:
    path.write_bytes(b"graph")
    raise ValueError("differs from PyTorch")


def test_a_hidden_folder_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "patch_tensorrt_20260101_000000"
    with HiddenFolder(tmp_path, final.name) as new:
        (new.folder / "model.onnx").write_bytes(b"graph")
        assert new.folder.name.startswith(BUILDING_PREFIX)
        assert not final.exists()
        new.replace(final)
    assert [path.name for path in tmp_path.iterdir()] == [final.name]
    assert (final / "model.onnx").read_bytes() == b"graph"


def test_a_failure_half_way_leaves_nothing_under_the_name_and_no_hidden_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="differs"), HiddenFolder(tmp_path, "patch") as new:
        write_then_fail(new.folder / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_same_name_is_replaced_whole_and_only_by_a_whole_one(tmp_path: Path) -> None:
    final = tmp_path / "patch"
    final.mkdir()
    (final / "old").write_bytes(b"old")
    with pytest.raises(ValueError, match="differs"), HiddenFolder(tmp_path, "patch") as new:
        raise ValueError("differs from PyTorch")
    assert [path.name for path in final.iterdir()] == ["old"]
    with HiddenFolder(tmp_path, "patch") as new:
        (new.folder / "new").write_bytes(b"new")
        new.replace(final)
    assert [path.name for path in tmp_path.iterdir()] == ["patch"]
    assert [path.name for path in final.iterdir()] == ["new"]


def test_the_old_folder_returns_if_the_new_one_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "patch"
    final.mkdir()
    (final / "old").write_bytes(b"old")
    with HiddenFolder(tmp_path, "patch") as new:
        monkeypatch.setattr(new, "folder", tmp_path / "removed meanwhile")
        with pytest.raises(RepositoryError, match="patch: cannot be published"):
            new.replace(final)
    assert [path.name for path in final.iterdir()] == ["old"]
