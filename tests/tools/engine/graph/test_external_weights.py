"""Tests `streamd/tools/engine/graph/external_weights.py`: graphs whose weights are in other files.

Every command takes or refuses such a graph alike, and no weight is lost.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx

from streamd.cli import main
from streamd.core.errors import BuildError, RepositoryError
from streamd.engine import InferenceEngine
from streamd.repository.conversion import hash_file, hash_graph
from streamd.repository.versions import load_version
from streamd.tools.engine.graph import onnx_graph as graphs
from streamd.tools.engine.graph.onnx_graph import load_graph, read_graph, serialize_graph
from tests.support.external_weights import DATA, REFUSED, TAKEN, move_apart, save_apart
from tests.support.graph_readers import raw_windows, run, scaled_network
from tests.support.made_versions import tell
from tests.support.small_version import make_fleet, make_version
from tests.tools.engine.conftest import MakeLibrary

ROWS = raw_windows(4)


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """Return a version whose weights are in a file beside its graph."""
    version = make_version(tmp_path / "engines")
    move_apart(version)
    tell(version, sha256={name: hash_file(version / name) for name in ("model.onnx", DATA, "config.json")})
    return version


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let protobufs hold next to nothing, so that every graph is larger than one."""
    monkeypatch.setattr(graphs, "LARGEST_MESSAGE_BYTES", 5000)


def build(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["engine", "build", *map(str, arguments), "--quiet"])
    printed = capsys.readouterr()
    return status, printed.out.strip(), printed.err


def answers(version: Path, fleet: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return the exit status of the gate and its verdicts on a version."""
    capsys.readouterr()
    arguments = [str(version), "--data", str(fleet), "--windows", "16", "--json", "--quiet"]
    status = main(["engine", "validate", *arguments])
    return status, json.loads(capsys.readouterr().out)["validation"]


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN.keys())
def test_graphs_that_one_command_takes_are_taken_by_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path]
) -> None:
    (tmp_path / "given").mkdir()
    graph = make(tmp_path / "given")
    expected = run(scaled_network(), ROWS)[0]
    assert run(read_graph(graph), ROWS)[0] == pytest.approx(expected, rel=1e-5)
    with InferenceEngine.open(graph, backend="onnxruntime-cpu") as engine:
        assert engine(ROWS)["y"] == pytest.approx(expected, rel=1e-4)
    plans = tmp_path / "plans"
    arguments = ("--onnx", graph, "--backend", "onnxruntime", "--plans-only", plans, "--precision", "fp32,fp16")
    assert build(capsys, *arguments)[0] == 0
    assert run(onnx.load(str(plans / "model.onnx")), ROWS)[0] == pytest.approx(expected, rel=1e-5)
    record = json.loads((plans / "plans.json").read_text())
    assert {each["source_onnx"] for each in record["graphs"].values()} == {hash_graph(graph)}
    assert main(["engine", "validate", "--onnx", str(graph), "--plans", str(plans), "--quiet"]) == 0
    assert (
        main(["engine", "bench", "--onnx", str(graph), "--batches", "2", "--lanes", "1", "--turns", "1", "--quiet"])
        == 0
    )


@pytest.mark.parametrize("case", REFUSED)
def test_graphs_that_one_command_refuses_are_refused_by_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    make, reason = REFUSED[case]
    graph = make(tmp_path)
    with pytest.raises(BuildError, match=reason):
        read_graph(graph)
    with pytest.raises(RepositoryError, match=reason):
        InferenceEngine.open(graph, backend="onnxruntime-cpu")
    status, _, error = build(capsys, "--onnx", graph, "--backend", "onnxruntime", "--plans-only", tmp_path / "plans")
    assert status == 1
    for command in ("validate", "bench"):
        assert main(["engine", command, "--onnx", str(graph)]) == 1
        assert capsys.readouterr().err.partition(": ")[2] == error.partition(": ")[2]
    assert not (tmp_path / "plans").exists()


def test_an_engine_opens_no_stored_graph_whose_weights_are_elsewhere(tmp_path: Path) -> None:
    make, reason = REFUSED["upwards"]
    graph = make(tmp_path)
    graph.rename(graph.with_name("model_fp16.onnx"))
    onnx.save(scaled_network(), str(graph))
    with pytest.raises(RepositoryError, match=reason):
        InferenceEngine.open(graph.parent, backend="onnxruntime-cpu", precision="fp16")


@pytest.mark.parametrize("way", ["version", "onnx"])
def test_a_version_that_is_built_holds_all_its_weights(
    tmp_path: Path, apart: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    out = tmp_path / "out"
    given = ("--version", apart) if way == "version" else ("--onnx", apart / "model.onnx")
    status, folder, error = build(
        capsys, *given, "--backend", "onnxruntime", "--precision", "fp32", "--out", out, "--name", "whole"
    )
    assert (status, error) == (0, "")
    made = Path(folder)
    (apart / DATA).unlink()
    load_version(made)
    assert not list(made.glob("*.data*")), "they are within the graph"
    assert main(["engine", "list", "--engines", str(out)]) == 0
    assert main(["engine", "promote", made.name, "--engines", str(out)]) == 0
    status, verdicts = answers(made, make_fleet(tmp_path), capsys)
    assert (status, verdicts["fp32"]["promotable"]) == (0, True)


def test_plans_of_a_version_with_weights_beside_its_graph(
    install: MakeLibrary, tmp_path: Path, apart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("10.16.0")
    status, folder, _ = build(
        capsys, "--version", apart, "--precision", "fp32,fp16", "--buckets", "1", "--out", tmp_path / "out"
    )
    assert status == 0
    (apart / DATA).unlink()
    assert load_version(Path(folder)).onnx.is_file()
    assert json.loads((Path(folder) / "conversion_info.json").read_text())["plans"].keys() == {"fp32", "fp16"}


# ---------------------------------------------------------------- more than a protobuf holds
def test_a_graph_too_large_for_a_protobuf_is_copied_with_its_files(
    tmp_path: Path, apart: Path, capsys: pytest.CaptureFixture[str], small_limit: None
) -> None:
    assert not load_graph(apart / "model.onnx").has_weights
    status, folder, error = build(
        capsys, "--version", apart, "--backend", "onnxruntime", "--precision", "fp32", "--out", tmp_path / "out"
    )
    assert (status, error) == (0, "")
    made = Path(folder)
    assert (made / DATA).read_bytes() == (apart / DATA).read_bytes()
    info = json.loads((made / "conversion_info.json").read_text())
    assert info["sha256"][DATA] == hash_file(apart / DATA)
    (apart / DATA).unlink()
    load_version(made)
    status, verdicts = answers(made, make_fleet(tmp_path), capsys)
    assert (status, verdicts["fp32"]["promotable"]) == (0, True)


def test_its_files_get_plain_names_for_which_a_record_can_have_hashes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], small_limit: None
) -> None:
    network = scaled_network(width=200)
    graph = save_apart(network, tmp_path / "model.onnx", "weights/config.json")
    second = onnx.load(str(graph), load_external_data=False)
    os.rename(tmp_path / "weights" / "config.json", tmp_path / "weights" / "a.bin")
    for number, tensor in enumerate(second.graph.initializer):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"weights/{'ab'[number % 2]}.bin"
    graph.write_bytes(second.SerializeToString())
    (tmp_path / "weights" / "b.bin").write_bytes((tmp_path / "weights" / "a.bin").read_bytes())
    plans = tmp_path / "plans"
    arguments = ("--onnx", graph, "--backend", "onnxruntime", "--precision", "fp32", "--plans-only", plans)
    assert build(capsys, *arguments)[0] == 0
    assert {each.name for each in plans.iterdir()} == {
        *("model.onnx", "model.onnx.data", "model.onnx.data2", "plans.json", "conversion_log.txt"),
    }
    with InferenceEngine.open(plans / "model.onnx", backend="onnxruntime-cpu") as engine:
        assert engine(ROWS)["y"] == pytest.approx(run(network, ROWS)[0], rel=1e-4)


@pytest.mark.parametrize("more", [["--backend", "onnxruntime", "--precision", "fp32,fp16"], ["--precision", "fp32"]])
def test_a_graph_too_large_to_be_changed_is_refused_at_once(
    tmp_path: Path, apart: Path, capsys: pytest.CaptureFixture[str], small_limit: None, more: list[str]
) -> None:
    status, _, error = build(capsys, "--version", apart, "--out", tmp_path / "out", *more)
    assert status == 1
    assert error.count("\n") == 1
    assert "model.onnx: its weights take 2 GiB or more" in error
    assert "--backend onnxruntime --precision fp32" in error
    assert not (tmp_path / "out").exists()


def test_a_single_file_too_large_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(2**31)  # a hole
    with pytest.raises(BuildError, match="2 GiB or more in one file; export it with its weights in a file beside it"):
        read_graph(tmp_path / "model.onnx")


def test_a_graph_that_no_protobuf_can_hold_is_refused(small_limit: None) -> None:
    with pytest.raises(BuildError, match=r"model_int8\.onnx: .* a protobuf holds less than 2 GiB"):
        serialize_graph(scaled_network(width=200), "model_int8.onnx")

    class RefusingModel:
        def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
            raise ValueError("Failed to serialize proto\nand a traceback")

    with pytest.raises(BuildError, match=r"^a\.onnx: cannot be written \(Failed to serialize proto\): a protobuf"):
        serialize_graph(RefusingModel(), "a.onnx")


def test_tensors_without_a_length_take_the_bytes_of_their_shape(tmp_path: Path) -> None:
    graph = save_apart(scaled_network(), tmp_path / "model.onnx")
    model = onnx.load(str(graph), load_external_data=False)
    for tensor in model.graph.initializer:
        kept = [entry for entry in tensor.external_data if entry.key != "length"]
        del tensor.external_data[:]
        tensor.external_data.extend(kept)
    graph.write_bytes(model.SerializeToString())
    np.testing.assert_array_equal(run(read_graph(graph), ROWS)[0], run(scaled_network(), ROWS)[0])
    os.truncate(tmp_path / DATA, (tmp_path / DATA).stat().st_size - 4)
    with pytest.raises(BuildError, match=r"not a sound ONNX model: tensor '\w+' has [\d,]+ bytes in its file"):
        read_graph(graph)
