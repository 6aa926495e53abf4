"""Makes an engine version with a short step from one of the repository, so that a scene of minutes has many rows.

The network is the same. It was trained on days of five-minute steps, so here its forecasts are only a demonstration. A
memory of hours does not fit into a window of minutes, so the version asks for none.
"""

import json
import shutil
from pathlib import Path

from streamd.core.errors import RepositoryError
from streamd.repository.conversion import hash_file
from streamd.repository.versions import EngineRepository
from streamd.tools.loadtest.errors import ReplayError

SHORT_STEP_VERSION = "scene_tensorrt_20260101_000000"


def make_short_step_version(engines: Path, target: Path, step_seconds: int) -> Path:
    """Copy the version that serves in `engines` into the folder `target`, with another step; returns its folder.

    Raises `ReplayError` if no version serves.
    """
    try:
        version = EngineRepository(engines).choose_unpromoted().version
    except RepositoryError as error:
        raise ReplayError(str(error)) from error
    made = target / SHORT_STEP_VERSION
    made.mkdir(parents=True)
    for name in ("model.onnx", "server_mapping.json"):
        shutil.copyfile(version.path / name, made / name)
    manifest = json.loads((version.path / "config.json").read_text(encoding="utf-8"))
    manifest.pop("memory", None)
    manifest |= {"name": SHORT_STEP_VERSION, "step_seconds": step_seconds}
    (made / "config.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    hashes = {path.name: hash_file(path) for path in sorted(made.iterdir())}
    (made / "conversion_info.json").write_text(json.dumps({"plans": {}, "sha256": hashes}), encoding="utf-8")
    return made
