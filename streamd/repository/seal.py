"""Notes the SHA-256 of each file that the lanes of a version may load, at the time when the version is checked.

A lane that is made later compares its files with these, so that one name never means two networks. Loads no graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import PurePosixPath

from streamd.core.errors import RepositoryError
from streamd.repository.conversion import hash_file, is_plain_name, read_conversion, read_graph_infos
from streamd.repository.external import list_data_locations
from streamd.repository.schema import PLAN_SUFFIX
from streamd.repository.versions import EngineVersion


@dataclass(frozen=True, kw_only=True)
class SealedVersion(EngineVersion):
    """A version and the files that its lanes may load.

    `sha256` has, by path within the folder, the hashes of graphs and their data files, and those that the record lists
    for plans. `data` has the data files of each graph, as the graph names them.
    """

    sha256: Mapping[str, str]
    data: Mapping[str, tuple[str, ...]]


def seal_version(version: EngineVersion) -> SealedVersion:
    """Return a version with the hashes of its files; reads each file that has no hash in the record.

    Raises `RepositoryError` if a file cannot be read.
    """
    listed = read_conversion(version.path).sha256
    found = {name: sha256 for name, sha256 in listed.items() if name.endswith(PLAN_SUFFIX)}
    data = {}
    for graph in _list_graphs(version):
        data[graph] = list_data_locations(version.path / graph)
        for name in (graph, *(str(PurePosixPath(each)) for each in data[graph])):
            if (version.path / name).is_file():  # a missing file is reported when a lane loads it
                found[name] = listed.get(name) or hash_file(version.path / name)
    own = {field.name: getattr(version, field.name) for field in fields(EngineVersion)}
    return SealedVersion(**own, sha256=found, data=data)


def list_changed_files(sealed: SealedVersion, current: SealedVersion) -> list[str]:
    """Return the graphs and data files of a version that were changed, added or removed since it was sealed."""
    names = {name for name in {**sealed.sha256, **current.sha256} if not name.endswith(PLAN_SUFFIX)}
    return sorted(name for name in names if sealed.sha256.get(name) != current.sha256.get(name))


def _list_graphs(version: EngineVersion) -> list[str]:
    """Return the names of `model.onnx` and of the graphs in lower precisions that exist."""
    try:
        infos = read_graph_infos(version.path)
    except RepositoryError:
        infos = {}  # reported when such a graph is requested; `model.onnx` can still serve
    names = [info.file for info in infos.values() if is_plain_name(info.file) and (version.path / info.file).is_file()]
    return [version.onnx.name, *(name for name in names if name != version.onnx.name)]
