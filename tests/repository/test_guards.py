"""Tests `streamd/repository/guards.py`.

What must never be served is known by its content too, whatever it is called; what only looks alike passes.
"""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from streamd.core.errors import RepositoryError
from streamd.repository.versions import load_version
from tests.support.made_versions import make


def archive(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name in names:
            opened.writestr(name, "x")
    return content.getvalue()


LEGACY_CHECKPOINT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""What torch.save began with before it wrote archives."""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (archive("model/data.pkl", "model/data/0", "model/version"), "PyTorch checkpoint"),
        (archive("model/data.pkl", "model/code/__torch__.py", "model/constants.pkl"), "TorchScript"),
        (LEGACY_CHECKPOINT, "pickle"),
        *((pickle.dumps({"state": [1]}, protocol=protocol), "pickle") for protocol in (2, 3, 4, 5)),
        *((pickle.dumps([1, 2], protocol=protocol), "pickle") for protocol in (2, 3, 4, 5)),
    ],
)
@pytest.mark.parametrize("name", ["weights", "model.engine", "model.onnx", "inner/model.dat"])
def test_a_checkpoint_by_any_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = make(tmp_path, "a_20260101_000000")
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(content)
    with pytest.raises(RepositoryError, match=said) as caught:
        load_version(path)
    assert name in str(caught.value)
    assert "export it to ONNX" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        archive("arrays/a.npy"),
        b"PK\x03\x04 but no archive",
        *(struct.pack("<Q", 0x80 | protocol << 8) + b'{"a":' for protocol in (2, 3, 4, 5)),  # safetensors headers
    ],
)
def test_what_only_looks_like_one_passes(tmp_path: Path, content: bytes) -> None:
    path = make(tmp_path, "a_20260101_000000")
    (path / "weights.safetensors").write_bytes(content)
    assert load_version(path).name == path.name
