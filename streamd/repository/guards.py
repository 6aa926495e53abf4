"""Refuses folders that must never be served: PyTorch models, TorchScript, and links that lead out of the folder.

Loads nothing to find out, because a pickle can run code.
"""

import re
import stat
import zipfile
from pathlib import Path

from streamd.core.errors import RepositoryError
from streamd.regular_files import open_regular

_CHECKPOINT_SUFFIXES = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".torchscript", ".ptl"}
_PYTORCH_NAME = re.compile(r"pytorch|torch(script)?_", re.IGNORECASE)
_ZIP_MAGIC = b"PK\x03\x04"
# The three beginnings of a pickle:
# 1. Protocol 2 with the magic number of older versions of `torch.save`.
# 2. Protocols 2 and 3, and the first object: a class, a dictionary, a list or a mark.
# 3. Protocols 4 and 5, and a frame.
_PICKLE = re.compile(rb"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19|\x80[\x02\x03][c}\]\(]|\x80[\x04\x05]\x95", re.DOTALL)
_REMEDY = "a PyTorch model is never loaded here: export it to ONNX and serve that version"


def refuse_foreign(version: Path) -> None:
    """Raise `RepositoryError` with the reason if a folder, or a file in it, must never be served."""
    if _PYTORCH_NAME.search(version.name):
        raise RepositoryError(f"{version}: named as a PyTorch model's folder; {_REMEDY}")
    try:
        if version.is_symlink():
            raise RepositoryError(f"{version}: a link; put the version's folder itself there")
        for file in sorted(version.rglob("*")):
            _refuse_link(file, version)
            _refuse_checkpoint(file)
    except (OSError, RuntimeError) as exc:  # before Python 3.13 a link to itself is a RuntimeError
        raise RepositoryError(f"{version}: cannot be read: {exc}") from exc


def is_foreign(version: Path) -> bool:
    """Whether a folder, or a file in it, must never be served."""
    try:
        refuse_foreign(version)
    except RepositoryError:
        return True
    return False


def _refuse_link(file: Path, version: Path) -> None:
    if file.is_symlink() and not file.resolve().is_relative_to(version.resolve()):
        raise RepositoryError(f"{file}: a link out of the version's folder; put the file itself there")


def _refuse_checkpoint(file: Path) -> None:
    if file.suffix.lower() in _CHECKPOINT_SUFFIXES:
        raise RepositoryError(f"{file}: a PyTorch checkpoint (a pickle can run code); {_REMEDY}")
    if not file.exists() or not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait for its writer
        return
    with open_regular(file) as opened:
        begin = opened.read(16)
    if _PICKLE.match(begin):
        raise RepositoryError(f"{file}: a pickle, as PyTorch checkpoints are (it can run code); {_REMEDY}")
    if begin.startswith(_ZIP_MAGIC):
        _refuse_archive(file)


def _refuse_archive(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return  # PyTorch could not load it either
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise RepositoryError(f"{file}: a TorchScript archive; {_REMEDY}")
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        raise RepositoryError(f"{file}: a PyTorch checkpoint (an archive with a pickle in it); {_REMEDY}")
