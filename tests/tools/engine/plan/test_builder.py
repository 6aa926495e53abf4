"""Tests `streamd/tools/engine/plan/builder.py`, and the maker, library, pins and monitor beside it.

The builders of TensorRT 8.6, 10 and 11 get the right flags, pins, profiles and timing caches; refusals are explained.
"""

import io
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import structlog.testing

pytest.importorskip("onnx")

from streamd.core.errors import BackendUnavailableError, BuildError
from streamd.inference.tensorrt.library import load_tensorrt
from streamd.inference.tensorrt.plan_file import unpack_stages
from streamd.repository.plans import Machine
from streamd.tools.engine.graph.onnx_graph import Signature, extract_signature, fold_constants
from streamd.tools.engine.graph.optional_inputs import add_default_input
from streamd.tools.engine.graph.source import read_source
from streamd.tools.engine.plan.builder import BuildSettings, PlanBuilder, PlanGraph, Profile
from streamd.tools.engine.plan.library import load_builder, probe_machine
from streamd.tools.engine.plan.maker import PlanMaker
from streamd.tools.engine.plan.pins import find_node_of_layer
from streamd.tools.engine.precision.graphs import PrecisionOptions
from streamd.tools.engine.progress import Progress
from tests.support.fake_tensorrt_builder import CACHE
from tests.support.graph_readers import INT32, model, node, operators, raw_windows, scaled_network, value, weight
from tests.tools.engine.conftest import MakeLibrary

VERSIONS = ["8.6.1", "10.16.0", "11.0.0"]
STATIC = BuildSettings(profiles=(Profile.static(1), Profile.static(8)))


def maker(settings: BuildSettings = STATIC, **options: Any) -> PlanMaker:
    graph = scaled_network()
    builder = PlanBuilder(load_builder(), settings)
    return PlanMaker(builder, graph, extract_signature(graph, "small"), PrecisionOptions(**options))


def plan_graph(graph: Any, *, strongly_typed: bool = True) -> PlanGraph:
    return PlanGraph(model=graph, signature=extract_signature(graph, "small"), strongly_typed=strongly_typed)


def flags(module: Any) -> set[str]:
    return {flag.name for flag in module.recorder.config.flags}


@pytest.mark.parametrize("version", VERSIONS)
def test_float32_has_no_tf32_and_one_profile_for_each_bucket(install: MakeLibrary, version: str) -> None:
    module = install(version)
    made = maker().make_plan("fp32")
    assert flags(module) == set()
    assert bytes(made.plan.content).startswith(b"plan of")
    shapes = [profile.shapes for profile in module.recorder.config.profiles]
    assert shapes == [{"x": ((size, 6, 8),) * 3} for size in (1, 8)]
    assert module.recorder.config.pools == {module.MemoryPoolType.WORKSPACE: 4 * 2**30}
    assert made.plan.warnings == ("weights are subnormal",)
    maker(BuildSettings(profiles=(Profile(1, 4, 16),), tf32=True, workspace_bytes=2**20)).make_plan("fp32")
    assert flags(module) == {"TF32"}
    assert module.recorder.config.profiles[0].shapes == {"x": ((1, 6, 8), (4, 6, 8), (16, 6, 8))}
    assert list(module.recorder.config.pools.values()) == [2**20]


def test_only_tensorrt_8_gets_the_option_to_share_profiles(install: MakeLibrary) -> None:
    for version in VERSIONS:
        module = install(version)
        maker().make_plan("fp32")
        options = {feature.name for feature, on in module.recorder.config.preview.items() if on}
        assert options == ({"PROFILE_SHARING_0806"} if version.startswith("8") else set())


@pytest.mark.parametrize("version", ["10.16.0", "11.0.0"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_later_versions_take_types_from_the_graph(install: MakeLibrary, version: str, precision: str) -> None:
    module = install(version)
    made = maker(windows=raw_windows(16), calibration="minmax").make_plan(precision)
    strong = 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    (graph,) = made.graphs
    assert graph.strongly_typed
    assert module.recorder.network.flags & strong
    assert flags(module) == set()
    assert all(layer.precision is None for layer in module.recorder.network.layers)
    cast = "Cast" in {each.op_type for each in graph.model.graph.node}
    assert cast == (precision != "fp32")


@pytest.mark.parametrize("version", VERSIONS)
def test_only_tensorrt_11_gets_no_elu(install: MakeLibrary, version: str) -> None:
    install(version)
    nodes = [node("MatMul", "x w", "inner", "/w"), node("Elu", "inner", "y", "/elu")]
    graph = model(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 4])], [weight("w", np.eye(4))])
    plans = PlanMaker(PlanBuilder(load_builder(), STATIC), graph, extract_signature(graph, "small"), PrecisionOptions())
    for precision in ("fp32", "fp16"):
        used = {each for made in plans.make_plan(precision).graphs for each in operators(made.model)}
        assert ("Elu" in used) == (version != "11.0.0")


def test_an_optional_input_is_an_input_of_the_plan_and_of_its_profiles(install: MakeLibrary, tmp_path: Path) -> None:
    module = install("11.0.0")
    inputs = [value("x", ["batch", 4]), value("ids", ["batch", 1], INT32), value("memory", ["batch", 4])]
    nodes = [node("Add", "x memory", "y", "/Add"), node("Identity", "ids", "same", "/Identity")]
    plain = model(nodes, inputs, [value("y", ["batch", 4])])
    graph = add_default_input(plain, "memory", np.zeros((1, 4), np.float32), like="ids")
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    source = read_source(tmp_path / "model.onnx", None, None, manifest_needed=False)
    PlanMaker(PlanBuilder(load_builder(), STATIC), source.model, source.signature, PrecisionOptions()).make_plan("fp32")
    assert [set(profile.shapes) for profile in module.recorder.config.profiles] == [{"x", "ids", "memory"}] * 2
    assert [each.name for each in module.recorder.network.inputs] == ["x", "ids", "memory"]


def test_tensorrt_8_gets_three_plans_and_flags_for_the_core_only(install: MakeLibrary) -> None:
    module = install("8.6.1")
    module.recorder.networks.clear()
    stream = io.StringIO()
    graph = scaled_network()
    builder = PlanBuilder(load_builder(), STATIC, Progress(stream=stream))
    made = PlanMaker(builder, graph, extract_signature(graph, "small"), PrecisionOptions()).make_plan("fp16")
    before, core, after = module.recorder.networks
    assert [{flag.name for flag in config.flags} for config in module.recorder.configs] == [set(), {"FP16"}, set()]
    assert {"/scaler/Div"} == set(made.kept.reasons) & {layer.name for layer in before.layers}
    assert {"/restorer/Mul"} == set(made.kept.reasons) & {layer.name for layer in after.layers}
    assert {"/first/MatMul", "/second/MatMul", "/Relu"} <= {layer.name for layer in core.layers}
    for network in module.recorder.networks:
        assert all(layer.precision is None for layer in network.layers), "sensitive operators are not pinned"
    assert dict(made.kept.reasons) == dict.fromkeys(("/scaler/Div", "/restorer/Mul"), "pinned: meets raw units")
    plans = [bytes(plan) for plan in unpack_stages(made.plan.content)]
    assert plans == [f"plan of {network.num_layers} layers".encode() for network in module.recorder.networks]
    assert made.plan.layers == sum(network.num_layers for network in module.recorder.networks)
    assert (made.plan.pinned_layers, made.plan.warnings) == (0, ("weights are subnormal",) * 3)
    assert [f"fp16, stage {number} of 3: building" in stream.getvalue() for number in (1, 2, 3)] == [True] * 3
    shapes = [config.profiles[1].shapes for config in module.recorder.configs]
    assert shapes == [{"x": ((8, 6, 8),) * 3}, {"unit": ((8, 6, 8),) * 3}, {"out": ((8, 6, 8),) * 3}]


def test_nodes_of_the_core_that_do_not_fit_are_pinned(install: MakeLibrary) -> None:
    module = install("8.6.1")
    nodes = [
        node("Neg", "x", "u", "/scaler/Neg"),
        node("Mul", "u big", "v", "/Mul"),
        node("LayerNormalization", "v scale", "w", "/norm/LayerNormalization", axis=-1),
        node("Softmax", "w", "s", "/Softmax"),
        node("Neg", "s", "y", "/restorer/Neg"),
    ]
    weights = [weight("big", 1e9), weight("scale", np.ones(8))]
    graph = model(nodes, [value("x", ["batch", 6, 8])], [value("y", ["batch", 6, 8])], weights)
    options = PrecisionOptions(windows={"x": raw_windows(8)["x"] / 1e9})
    making = PlanMaker(PlanBuilder(load_builder(), STATIC), graph, extract_signature(graph, "small"), options)
    made = making.make_plan("fp16")
    assert [graph.pinned for graph in made.graphs] == [(), tuple(made.kept.misfits), ()]
    # The norm reads a tensor that does not fit, even if it is written out; the softmax does not.
    assert "/Mul" in made.kept.misfits
    assert any(name.startswith("/norm/") for name in made.kept.misfits)
    assert "/Softmax" not in made.kept.reasons
    assert {"/scaler/Neg", "/restorer/Neg"} <= set(made.kept.reasons)
    assert module.recorder.networks[1].named("/Mul").precision == module.DataType.FLOAT
    flagged = {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert [{flag.name for flag in config.flags} for config in module.recorder.configs] == [set(), flagged, set()]
    assert made.plan.pinned_layers >= 2


@pytest.mark.parametrize("typed", [True, False])
def test_a_typed_graph_is_a_hint_to_the_core(install: MakeLibrary, typed: bool) -> None:
    install("8.6.1")
    made = maker(typed=typed).make_plan("fp16")
    casts = ["Cast" in {each.op_type for each in graph.model.graph.node} for graph in made.graphs]
    assert (made.typed, casts) == (typed, [False, typed, False])
    assert "/norm/LayerNormalization" not in made.kept.reasons, "a hint keeps nothing in float32"


def test_a_graph_without_raw_units_is_one_plan(install: MakeLibrary) -> None:
    module = install("8.6.1")
    graph = model([node("Relu", "x", "y", "/Relu")], [value("x", ["b", 2])], [value("y", ["b", 2])])
    signature = extract_signature(graph, "small")
    made = PlanMaker(PlanBuilder(load_builder(), STATIC), graph, signature, PrecisionOptions()).make_plan("fp16")
    assert bytes(made.plan.content) == b"plan of 1 layers"
    assert (len(made.graphs), made.kept.names, flags(module)) == (1, [], {"FP16"})


def test_tensorrt_8_gets_the_float32_graph_and_flags_unless_typed_is_requested(install: MakeLibrary) -> None:
    module = install("8.6.1")
    module.recorder.refuse_types = {10}
    assert maker().make_plan("fp16").typed is False
    with pytest.raises(BuildError, match="node number 0: type 10 is not taken"):
        maker(typed=True).make_plan("fp16")


def test_tensorrt_8_takes_int8_with_flags_and_has_no_bfloat16(install: MakeLibrary) -> None:
    module = install("8.6.1")
    made = maker(windows=raw_windows(16), calibration="minmax").make_plan("int8")
    assert made.uncut_model is not None
    assert "QuantizeLinear" in operators(made.uncut_model)
    flags_of_plans = [{flag.name for flag in config.flags} for config in module.recorder.configs]
    assert flags_of_plans == [set(), {"INT8", "FP16"}, set()]
    quantized = ["QuantizeLinear" in {each.op_type for each in graph.model.graph.node} for graph in made.graphs]
    assert quantized == [False, True, False]
    assert all("Cast" not in {each.op_type for each in graph.model.graph.node} for graph in made.graphs)
    assert made.kept.names == ["/scaler/Div", "/restorer/Mul"]
    with pytest.raises(BuildError, match=r"TensorRT 8\.6\.1 has no bfloat16"):
        maker().make_plan("bf16")
    with pytest.raises(BuildError, match="int8: needs real windows"):
        maker().make_plan("int8")


def test_tensorrt_11_has_no_flags_to_fall_back_to(install: MakeLibrary) -> None:
    install("11.0.0")
    with pytest.raises(BuildError, match="no builder flag FP16"):
        maker(typed=False).make_plan("fp16")


def test_layers_without_floats_are_not_pinned(install: MakeLibrary) -> None:
    module = install("8.6.1")
    nodes = [node("Neg", "n", "m", "/scaler/Neg"), node("Cast", "m", "y", "/scaler/Cast", to=1)]
    graph = fold_constants(model(nodes, [value("n", ["b", 2], INT32)], [value("y", ["b", 2])]))
    signature = extract_signature(graph, "ints")
    pinned = ("/scaler/Neg", "/scaler/Cast")
    pinned_graph = PlanGraph(model=graph, signature=signature, strongly_typed=False, flags=("FP16",), pinned=pinned)
    built = PlanBuilder(load_builder(), STATIC).build_plan(pinned_graph, "fp16")
    first, second = (module.recorder.network.named(name) for name in pinned)
    assert (first.precision, first.output_types) == (None, {})
    assert (second.precision, second.output_types) == (None, {0: module.DataType.FLOAT})
    assert built.pinned_layers == 1


def test_a_loop_beside_a_pinned_layer_is_not_entered(install: MakeLibrary) -> None:
    module = install("8.6.1")
    nodes = [
        node("Relu", "x", "u", "/scaler/Relu"),
        node("LSTM", "u w r", "s", "/lstm/LSTM", hidden_size=2),
        node("Neg", "s", "v", "/restorer/Neg"),
        node("Squeeze", "v axis", "z", "/Squeeze"),
        node("Transpose", "z", "y", "/Transpose", perm=[1, 0, 2]),
    ]
    weights = [weight("w", [[[0.1] * 3] * 8]), weight("r", [[[0.1] * 2] * 8])]
    weights.append(__import__("onnx").helper.make_tensor("axis", 7, [1], [1]))
    graph = model(nodes, [value("x", [4, "b", 3])], [value("y", ["b", 4, 2])], weights)
    builder = PlanBuilder(load_builder(), STATIC)
    pins = ("/scaler/Relu", "/restorer/Neg")
    given = PlanGraph(model=graph, signature=Signature((), ()), strongly_typed=False, pinned=pins)
    built = builder.build_plan(given, "fp16")
    pinned = {layer.name for layer in module.recorder.network.layers if layer.precision is not None}
    assert {"/scaler/Relu", "/restorer/Neg"} == pinned
    assert built.pinned_layers == 2


def test_the_node_of_a_layer_is_found_by_its_name() -> None:
    nodes = {"/scaler/Sum", "/scaler/Sum_1", "a"}
    names = ["/scaler/Sum", "/scaler/Sum_1", "/scaler/Sum_7", "a_b", "ONNXTRT_Broadcast_3", "(Unnamed Layer* 3)"]
    owners = ["/scaler/Sum", "/scaler/Sum_1", "/scaler/Sum", None, None, None]
    assert [find_node_of_layer(name, nodes) for name in names] == owners


def test_a_version_compatible_plan_has_no_runtime_in_it(install: MakeLibrary) -> None:
    module = install("8.6.1")
    maker(BuildSettings(profiles=(Profile.static(1),), version_compatible=True, optimization_level=2)).make_plan("fp32")
    assert flags(module) == {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"}
    assert module.recorder.config.builder_optimization_level == 2


def test_a_timing_cache_is_created_extended_and_replaced(install: MakeLibrary, tmp_path: Path) -> None:
    install("10.16.0")
    path = tmp_path / "caches" / "gpu.timing-cache"
    settings = BuildSettings(profiles=(Profile.static(1),), timing_cache=path)
    maker(settings).make_plan("fp32")
    assert path.read_bytes() == CACHE + b"one more;"
    maker(settings).make_plan("fp32")
    assert path.read_bytes() == CACHE + b"one more;one more;"
    path.write_bytes(b"of another device")
    maker(settings).make_plan("fp32")
    assert path.read_bytes() == CACHE + b"one more;"
    assert list(path.parent.iterdir()) == [path]


def test_a_timing_cache_that_cannot_be_written_fails_no_build(install: MakeLibrary, tmp_path: Path) -> None:
    install("10.16.0")
    (tmp_path / "file").write_text("in the way")
    stream = io.StringIO()
    graph = scaled_network()
    settings = BuildSettings(profiles=(Profile.static(1),), timing_cache=tmp_path / "file" / "cache")
    builder = PlanBuilder(load_builder(), settings, Progress(stream=stream))
    made = PlanMaker(builder, graph, extract_signature(graph, "small"), PrecisionOptions()).make_plan("fp32")
    assert bytes(made.plan.content)
    assert "the timing cache cannot be written" in stream.getvalue()


@pytest.mark.parametrize(
    ("version", "reason"), [("8.6.1", "node number 0: no such"), ("10.16.0", r"node /a \(Odd\): no such")]
)
def test_every_error_of_the_parser_is_reported(install: MakeLibrary, version: str, reason: str) -> None:
    module = install(version)
    module.recorder.parser_errors = [("/a", "Odd", "no such operator"), ("/b", "Even", "nor this")]
    with pytest.raises(BuildError, match=f"fp32: the parser of TensorRT .* refused the graph: {reason}") as caught:
        maker().make_plan("fp32")
    assert "nor this" in str(caught.value)


def test_a_refused_build_has_only_its_own_reasons(install: MakeLibrary) -> None:
    module = install("10.16.0")
    making = maker()
    module.recorder.build_errors = ["no implementation for node /first/MatMul", "out of memory", "out of memory"]
    with pytest.raises(BuildError) as caught:
        making.make_plan("fp32")
    assert str(caught.value).count("out of memory") == 1
    assert "no implementation for node /first/MatMul" in str(caught.value)
    module.recorder.build_errors = ["another"]
    with pytest.raises(BuildError) as caught:
        making.make_plan("fp32")
    assert "out of memory" not in str(caught.value)


def test_the_lines_of_the_log_are_passed_on(install: MakeLibrary) -> None:
    install("10.16.0")
    graph = scaled_network()
    for verbose in (False, True):
        lines: list[str] = []
        builder = PlanBuilder(load_builder(), STATIC, log=lines.append, verbose=verbose)
        builder.build_plan(plan_graph(graph), "fp32")
        assert "TensorRT warning: weights are subnormal" in lines
        assert ("TensorRT verbose: tactics" in lines) is verbose


def test_progress_is_reported_if_tensorrt_reports_it(install: MakeLibrary) -> None:
    seconds = iter(range(0, 1000, 6))
    for version in ("8.6.1", "10.16.0"):
        install(version)
        stream = io.StringIO()
        builder = PlanBuilder(load_builder(), STATIC, Progress(stream=stream, now=lambda: float(next(seconds))))
        graph = scaled_network()
        builder.build_plan(plan_graph(graph, strongly_typed=version != "8.6.1"), "fp32")
        assert ("fp32: 2 of 3, " in stream.getvalue()) is (version != "8.6.1")
        assert ("reports no progress" in stream.getvalue()) is (version == "8.6.1")


def test_an_interrupt_ends_the_build_between_two_steps(install: MakeLibrary) -> None:
    install("10.16.0")
    graph = scaled_network()

    def now() -> float:
        signal.raise_signal(signal.SIGINT)
        return 0.0

    progress = Progress(quiet=True)
    builder = PlanBuilder(load_builder(), STATIC, progress)
    job = progress.start_job

    def interrupting(text: str, total: int) -> Any:
        made = job(text, total)
        progress._now = now
        return made

    progress.start_job = interrupting  # type: ignore[method-assign]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # Background jobs of a shell ignore this signal.
    try:
        with pytest.raises(KeyboardInterrupt):
            builder.build_plan(plan_graph(graph), "fp32")
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_a_gpu_or_a_builder_the_error_has_the_remedy(
    install: MakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = install("10.16.0")
    assert probe_machine() == Machine("NVIDIA Fake", "9.0", "10.16.0")
    del module.Builder
    with pytest.raises(BackendUnavailableError, match=r"has no builder.*pip install 'streamd\[build,tensorrt\]'"):
        load_builder()
    load_tensorrt.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailableError, match=r"building a plan needs .*pip install 'streamd\[tensorrt\]'"):
        load_builder()
    monkeypatch.setattr("streamd.inference.cuda.count_devices", lambda: 0)
    monkeypatch.setattr("streamd.inference.cuda.explain_no_device", lambda: "no driver")
    with pytest.raises(BackendUnavailableError, match="needs a CUDA device and TensorRT: no driver"):
        load_builder()
    assert probe_machine() is None


def test_a_builder_gets_the_messages_of_tensorrt_only_while_it_builds(install: MakeLibrary) -> None:
    module = install("10.16.0")
    lines: list[str] = []
    library = load_tensorrt()
    builder = PlanBuilder(load_builder(), STATIC, log=lines.append)
    graph = scaled_network()
    builder.build_plan(plan_graph(graph), "fp32")
    before = list(lines)
    with structlog.testing.capture_logs() as logged:
        for severity in ("VERBOSE", "WARNING", "ERROR"):
            library.logger.log(getattr(module.ILogger.Severity, severity), severity)
    assert lines == before
    assert [(each["log_level"], each["message"]) for each in logged] == [("warning", "WARNING"), ("error", "ERROR")]
    assert library.take_last_error() == "ERROR"
    assert library.take_last_error() == "TensorRT gave no reason"
