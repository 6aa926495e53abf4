"""Tests `streamd/tools/scene/engine.py`: a version with a short step is sound."""

from pathlib import Path

import pytest

from streamd.repository.versions import load_version
from streamd.tools.loadtest.errors import ReplayError
from streamd.tools.scene.engine import make_short_step_version

ROOT = Path(__file__).resolve().parents[3]


def test_a_version_with_a_short_step_is_sound(tmp_path: Path) -> None:
    made = make_short_step_version(ROOT / "engines", tmp_path, 5)
    assert load_version(made).contract.step_seconds == 5


def test_a_folder_without_versions_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="no engine version to serve"):
        make_short_step_version(tmp_path, tmp_path / "made", 5)
