"""Tests `streamd/repository/external.py`.

Weights in files beside a graph: found wherever ONNX lets them be, refused outside its folder, and vouched for.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper

from streamd.cli import main
from streamd.core.errors import RepositoryError
from streamd.repository.conversion import choose_graph, hash_file, hash_graph
from streamd.repository.external import find_data_files
from streamd.repository.versions import EngineRepository, load_version
from tests.support.external_weights import DATA, REFUSED, TAKEN, change_location, move_apart, save_apart
from tests.support.graph_readers import model, scaled_network, value, weight
from tests.support.made_versions import tell
from tests.support.small_version import make_version


@pytest.mark.parametrize("case", REFUSED)
def test_data_outside_the_graphs_folder_or_not_whole_is_refused_by_name(tmp_path: Path, case: str) -> None:
    make, said = REFUSED[case]
    with pytest.raises(RepositoryError, match=said):
        find_data_files(make(tmp_path))


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN.keys())
def test_data_in_the_graphs_folder_is_found(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    graph = make(tmp_path)
    (file,) = find_data_files(graph).values()
    assert file.read_bytes() == (graph.parent / next(iter(find_data_files(graph)))).read_bytes()
    assert file.stat().st_size > 0


def external(name: str) -> Any:
    """A tensor of one number that is kept in a file of its own name."""
    tensor = weight(name, [1.0])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=f"{name}.bin")
    return tensor


def test_data_is_found_in_every_part_of_a_model(tmp_path: Path) -> None:
    inner = helper.make_graph([], "inner", [], [value("then", [1])], [external("branch")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=external("constant")),
        helper.make_node("If", ["condition"], ["d"], then_branch=inner, else_branch=inner),
    ]
    graph = model(nodes, [value("x", ["batch", 1])], [value("x", ["batch", 1])], [external("initializer")])
    sparse = graph.graph.sparse_initializer.add()
    sparse.values.CopyFrom(external("values"))
    sparse.indices.CopyFrom(external("indices"))
    function = graph.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["e"], value=external("function")))
    content = graph.SerializeToString()
    # A second graph in the file is merged with the first, as protobuf does it.
    content += onnx.ModelProto(graph=onnx.GraphProto(initializer=[external("merged")])).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    names = ("branch", "constant", "initializer", "values", "indices", "function", "merged")
    for name in names:
        (tmp_path / f"{name}.bin").write_bytes(bytes(4))
    assert set(find_data_files(tmp_path / "model.onnx")) == {f"{name}.bin" for name in names}
    for name in names:
        (tmp_path / f"{name}.bin").unlink()
        with pytest.raises(RepositoryError, match=rf"{name}\.bin: missing"):
            find_data_files(tmp_path / "model.onnx")
        (tmp_path / f"{name}.bin").write_bytes(bytes(4))


def test_every_place_that_a_tensor_names_is_looked_at(tmp_path: Path) -> None:
    graph = save_apart(scaled_network(), tmp_path / "model.onnx")
    stored = onnx.load(str(graph), load_external_data=False)
    stored.graph.initializer[0].external_data.insert(0, onnx.StringStringEntryProto(key="location", value="../out"))
    graph.write_bytes(stored.SerializeToString())
    with pytest.raises(RepositoryError, match=r"'\.\./out'"):
        find_data_files(graph)


@pytest.mark.parametrize(("key", "said"), [("offset", "many"), ("offset", "-4"), ("length", "x")])
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, key: str, said: str) -> None:
    graph = save_apart(scaled_network(), tmp_path / "model.onnx")
    stored = onnx.load(str(graph), load_external_data=False)
    stored.graph.initializer[0].external_data.add(key=key, value=said)
    graph.write_bytes(stored.SerializeToString())
    with pytest.raises(RepositoryError, match="not an ONNX model"):
        find_data_files(graph)


def test_graphs_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    content = b""
    for number in (6, 5, 1) * 70:  # an attribute's graph, a node's attribute, a graph's node
        size = len(content)
        content = bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7]) + content
    whole = bytes([7 << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7]) + content
    (tmp_path / "model.onnx").write_bytes(whole)
    with pytest.raises(RepositoryError, match="nest more than 64 deep"):
        find_data_files(tmp_path / "model.onnx")


def test_a_graphs_hash_is_that_of_its_weights_too(tmp_path: Path) -> None:
    graph = save_apart(scaled_network(), tmp_path / "model.onnx")
    before = hash_graph(graph)
    content = bytearray((tmp_path / DATA).read_bytes())
    content[5] ^= 1
    (tmp_path / DATA).write_bytes(content)
    assert hash_graph(graph) != before
    onnx.save(scaled_network(), str(tmp_path / "one.onnx"))
    assert hash_graph(tmp_path / "one.onnx") == hash_file(tmp_path / "one.onnx")


# ---------------------------------------------------------------- versions
@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A sound version by hand: its weights beside the graph, and a record of both."""
    path = make_version(tmp_path / "engines")
    move_apart(path)
    tell(path, sha256={name: hash_file(path / name) for name in ("model.onnx", DATA, "config.json")})
    return path


def status_of(path: Path, command: str) -> int:
    arguments = [] if command == "list" else [path.name]
    return main(["engine", command, *arguments, "--engines", str(path.parent)])


def test_a_version_with_weights_beside_its_graph_is_sound(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_version(version).onnx == version / "model.onnx"
    assert (status_of(version, "list"), status_of(version, "promote")) == (0, 0)
    assert "sound" in capsys.readouterr().out


def spoil_byte(version: Path) -> None:
    content = bytearray((version / DATA).read_bytes())
    content[-1] ^= 1
    (version / DATA).write_bytes(content)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda version: (version / DATA).unlink(), f"{DATA}: missing"),
    "changed": (spoil_byte, f"{DATA}: changed since it was made"),
    "not vouched for": (
        lambda version: tell(
            version, sha256={name: hash_file(version / name) for name in ("model.onnx", "config.json")}
        ),
        "conversion_info.json has no SHA-256 of it",
    ),
    "elsewhere": (
        lambda version: tell(
            version, sha256={"model.onnx": hash_file(change_location(version / "model.onnx", "../w"))}
        ),
        "expected a file in the graph's own folder",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
@pytest.mark.parametrize("command", ["list", "inspect", "promote"])
def test_what_validate_refuses_list_and_promote_see(
    version: Path, case: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, said = SPOILT[case]
    spoil(version)
    assert status_of(version, command) == 1
    told = capsys.readouterr()
    assert said in told.out + told.err
    with pytest.raises(RepositoryError, match="no engine version to serve"):
        EngineRepository(version.parent).choose()


def test_a_version_without_hashes_must_have_its_weights_all_the_same(version: Path) -> None:
    (version / "conversion_info.json").unlink()
    load_version(version)
    (version / DATA).unlink()
    with pytest.raises(RepositoryError, match="missing, or no regular file"):
        load_version(version)


def test_a_graph_of_a_lower_precision_is_checked_as_well(version: Path) -> None:
    lower = version / "model_fp16.onnx"
    shutil.copy(version / "model.onnx", lower)
    change_location(lower, "half.data")
    hashes = {name: hash_file(version / name) for name in ("model.onnx", DATA, lower.name)}
    tell(version, sha256=hashes, graphs={"fp16": {"file": lower.name}}, validation={"fp16": {"promotable": True}})
    with pytest.raises(RepositoryError, match=r"half\.data: missing"):
        choose_graph(version, "fp16")
    shutil.copy(version / DATA, version / "half.data")
    with pytest.raises(RepositoryError, match="has no SHA-256 of it"):
        choose_graph(version, "fp16")
    tell(version, sha256={**hashes, "half.data": hash_file(version / "half.data")})
    assert choose_graph(version, "fp16") == lower
