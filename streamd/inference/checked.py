"""Reads the files of a lane and compares their SHA-256 each time with the one noted when the version was checked.

A lane may be rebuilt long after its version was checked, and the file may have been replaced by then.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from streamd.core.errors import BackendUnavailableError
from streamd.regular_files import read_with_timeout


@dataclass(frozen=True)
class CheckedFiles:
    """The graphs of a folder and the files in which they keep weights, as they were when they were checked.

    `sha256` is in hexadecimal, by path within the folder; `data` has each graph's data files, as the graph names them.
    """

    folder: Path
    sha256: Mapping[str, str]
    data: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def read_graph(self, name: str) -> bytes:
        """Read a whole graph; raises `BackendUnavailableError` unless it is the one that was checked."""
        return self._read(name)

    def read_data(self, graph: str) -> dict[str, bytes]:
        """Read a graph's data files, by the names that it gives them; raises as `read_graph`."""
        return {name: self._read(str(PurePosixPath(name))) for name in self.data.get(graph, ())}

    def _read(self, name: str) -> bytes:
        if name not in self.sha256:
            raise BackendUnavailableError(f"{self.folder / name}: did not exist when the version was checked")
        return read_checked(self.folder / name, self.sha256[name])


def read_checked(path: Path, sha256: str) -> bytes:
    """Read a whole file; raises `BackendUnavailableError` unless it has this SHA-256 (not compared if empty)."""
    try:
        content = read_with_timeout(path)
    except OSError as exc:
        raise BackendUnavailableError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    found = hashlib.sha256(content).hexdigest() if sha256 else ""
    if found != sha256:
        raise BackendUnavailableError(
            f"{path}: changed since it was checked (SHA-256 {found}, expected {sha256}); "
            "put the file back, or serve the new one as a version of another name"
        )
    return content
