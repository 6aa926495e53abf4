"""Tests `streamd/repository/graph.py`.

What a graph takes and gives, read from its bytes; and no bytes crash the reader.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamd.core.errors import RepositoryError
from streamd.repository.graph import check_graph, read_signature
from tests.support.made_versions import CONTRACT, GRAPH, onnx_of
from tests.support.memory_version import make_memory_contract, make_memory_network
from tests.support.onnx_bytes import FLOAT, INT32, Tensor, identity_model, tensors_of

SHIPPED = sorted((Path(__file__).parents[2] / "engines").glob("*/model.onnx"))
ORDINARY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(folder: Path, content: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content)
    return path


def graph_with(folder: Path, **changed: Tensor | None) -> Path:
    """The contract's graph but for some tensors; None: it has no such tensor."""
    tensors = {**tensors_of(CONTRACT), **changed}
    outputs = [tensor for name, tensor in tensors.items() if tensor and name.startswith("predictions")]
    inputs = [tensor for name, tensor in tensors.items() if tensor and not name.startswith("predictions")]
    return written(folder, identity_model(inputs, outputs, "decoder_cont", "predictions"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_it_reads_what_onnx_runtime_reads(path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    types = {"tensor(float)": "float32", "tensor(int32)": "int32"}
    graph = read_signature(path)
    for ours, theirs in ((graph.inputs, session.get_inputs()), (graph.outputs, session.get_outputs())):
        assert {name: (each.element_type, list(each.shape)) for name, each in ours.items()} == {
            node.name: (types[node.type], [size if isinstance(size, int) else None for size in node.shape])
            for node in theirs
        }


@pytest.mark.parametrize("targets", [("b",), ("a", "b")])
def test_the_contracts_graph_passes(tmp_path: Path, targets: tuple[str, ...]) -> None:
    contract = replace(CONTRACT, targets=targets)
    check_graph(written(tmp_path, onnx_of(contract)), contract)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"encoder_cont": None}, "foreign network: its inputs"),
        ({"extra": ("extra", FLOAT, ("batch", 3))}, "foreign network: its inputs"),
        ({"predictions": ("predictions_2", FLOAT, ("batch", 4, 3))}, "foreign network: its outputs"),
        ({"encoder_cat": ("encoder_cat", FLOAT, ("batch", 8, 2))}, "encoder_cat is float32, expected int32"),
        ({"encoder_cat": ("encoder_cat", 7, ("batch", 8, 2))}, "encoder_cat is int64, expected int32"),
        ({"encoder_cont": ("encoder_cont", INT32, ("batch", 8, 2))}, "encoder_cont is int32"),
        ({"encoder_cont": ("encoder_cont", FLOAT, (1, 8, 2))}, "fixed batch of 1"),
        (
            {"encoder_cont": ("encoder_cont", FLOAT, ("batch", 8, 3))},
            r"\(batch, 8, 3\), expected \(batch, 8, 2\) by config.json",
        ),
        ({"predictions": ("predictions", FLOAT, ("batch", 4, 2, 3))}, "by config.json"),
        ({"predictions": ("predictions", FLOAT, ("batch", 5, 3))}, "by config.json"),
        ({"predictions": ("predictions", 10, ("batch", 4, 3))}, "predictions is float16"),
    ],
)
def test_a_graph_that_is_not_the_contracts(tmp_path: Path, changed: dict[str, Tensor | None], said: str) -> None:
    with pytest.raises(RepositoryError, match=said):
        check_graph(graph_with(tmp_path, **changed), CONTRACT)


def test_axes_that_the_graph_leaves_open_pass(tmp_path: Path) -> None:
    check_graph(graph_with(tmp_path, predictions=("predictions", FLOAT, ("batch", "steps", 3))), CONTRACT)
    check_graph(graph_with(tmp_path, predictions=("predictions", FLOAT, ())), CONTRACT)


def test_weights_that_an_old_exporter_lists_as_inputs_are_none(tmp_path: Path) -> None:
    weight = b"\x08\x01\x10\x01\x42\x06weight\x4a\x04\x00\x00\x00\x00"  # dims [1], float, name "weight", raw data
    tensors = [*tensors_of(CONTRACT).values()]
    model = identity_model([*tensors[:-1], ("weight", FLOAT, (1,))], tensors[-1:], "decoder_cont", "predictions")
    with pytest.raises(RepositoryError, match="weight"):
        check_graph(written(tmp_path, model), CONTRACT)
    # Another GraphProto field at the end of the graph: the graph's length grows with it.
    with_weight = _graph_with_field(model, b"\x2a" + bytes([len(weight)]) + weight)
    check_graph(written(tmp_path, with_weight), CONTRACT)


@pytest.mark.parametrize("has_default", [True, False])
def test_the_memory_may_have_a_value_in_the_graph(tmp_path: Path, has_default: bool) -> None:
    contract = make_memory_contract()
    path = written(tmp_path, make_memory_network(contract, has_default=has_default).SerializeToString())
    check_graph(path, contract)
    with pytest.raises(RepositoryError, match=r"memory_cont is \(batch, 168, 3\), expected \(batch, 7, 3\)"):
        check_graph(path, replace(contract, memory_length=7))


def test_a_graph_without_the_memory_of_its_manifest_is_refused(tmp_path: Path) -> None:
    contract = make_memory_contract()
    plain = written(tmp_path, onnx_of(replace(contract, memory_length=0)))
    with pytest.raises(RepositoryError, match=r"foreign network: its inputs .*'memory_cont'"):
        check_graph(plain, contract)


def test_a_memory_that_the_manifest_does_not_ask_for_is_left_out_or_refused(tmp_path: Path) -> None:
    contract = make_memory_contract()
    optional, needed = (make_memory_network(contract, has_default=each).SerializeToString() for each in (True, False))
    check_graph(written(tmp_path, optional), replace(contract, memory_length=0))
    with pytest.raises(RepositoryError, match="foreign network: its inputs"):
        check_graph(written(tmp_path, needed), replace(contract, memory_length=0))


def _graph_with_field(model: bytes, field: bytes) -> bytes:
    """`model` (IR version, graph, opset) with one more field in its graph."""
    assert model[2] == 7 << 3 | 2
    length, at, shift = 0, 3, 0
    while True:
        byte = model[at]
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    graph = model[at : at + length] + field
    size, rest = bytearray(), len(graph)
    while rest > 0x7F:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    size.append(rest)
    return model[:3] + bytes(size) + graph + model[at + length :]


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"not a graph at all", b"\xff" * 64, b"\x08\x08", b"PK\x03\x04", b"{}"]
)
def test_what_is_no_onnx_model_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RepositoryError, match=r"not an ONNX model .*export"):
        check_graph(written(tmp_path, content), CONTRACT)


def test_a_graph_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    for size in range(len(GRAPH) - len(b"\x42\x04\x0a\x00\x10\x11")):  # the opset stands behind the graph
        with pytest.raises(RepositoryError):
            check_graph(written(tmp_path, GRAPH[:size]), CONTRACT)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"model\.onnx: cannot be read"):
        read_signature(tmp_path / "model.onnx")


@ORDINARY
@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    _reads_or_refuses(tmp_path_factory.getbasetemp() / "random.onnx", content)


@ORDINARY
@given(st.integers(0, len(GRAPH) - 1), st.integers(0, 255))
def test_no_changed_byte_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, place: int, byte: int) -> None:
    content = GRAPH[:place] + bytes([byte]) + GRAPH[place + 1 :]
    _reads_or_refuses(tmp_path_factory.getbasetemp() / "changed.onnx", content)


def _reads_or_refuses(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with suppress(RepositoryError):  # any other error is a crash
        check_graph(path, CONTRACT)
