"""Notes what a version's lanes may load, by SHA-256, when the version is checked.

Who makes a lane later compares, so that one name never stands for two networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import PurePosixPath

from streamd.core.errors import RepositoryError
from streamd.repository.conversion import PLAN_SUFFIX, hash_file, is_plain_name, read_conversion, read_graph_infos
from streamd.repository.external import list_data_locations
from streamd.repository.versions import EngineVersion


@dataclass(frozen=True, kw_only=True)
class SealedVersion(EngineVersion):
    """A version and what its lanes may load.

    `sha256` is by path within the folder: of its graphs and their data files, and of plans as they are listed. `data`
    has the data files of each graph, as the graph names them.
    """

    sha256: Mapping[str, str]
    data: Mapping[str, tuple[str, ...]]


def seal_version(version: EngineVersion) -> SealedVersion:
    """Note what a version's lanes may load; reads what is not listed with its hash. Raises `RepositoryError`."""
    listed = read_conversion(version.path).sha256
    found = {name: sha256 for name, sha256 in listed.items() if name.endswith(PLAN_SUFFIX)}
    data = {}
    for graph in _graphs(version):
        data[graph] = list_data_locations(version.path / graph)
        for name in (graph, *(str(PurePosixPath(each)) for each in data[graph])):
            if (version.path / name).is_file():  # a missing one is reported when it is to be loaded
                found[name] = listed.get(name) or hash_file(version.path / name)
    own = {field.name: getattr(version, field.name) for field in fields(EngineVersion)}
    return SealedVersion(**own, sha256=found, data=data)


def list_changed_files(sealed: SealedVersion, now: SealedVersion) -> list[str]:
    """The files of a version's graphs that are others now, or gone."""
    names = {name for name in {**sealed.sha256, **now.sha256} if not name.endswith(PLAN_SUFFIX)}
    return sorted(name for name in names if sealed.sha256.get(name) != now.sha256.get(name))


def _graphs(version: EngineVersion) -> list[str]:
    try:
        infos = read_graph_infos(version.path)
    except RepositoryError:
        infos = {}  # told where such a graph is asked for; `model.onnx` serves all the same
    names = [info.file for info in infos.values() if is_plain_name(info.file) and (version.path / info.file).is_file()]
    return [version.onnx.name, *(name for name in names if name != version.onnx.name)]
