"""Builds the plan of a simple first attempt: one profile of dynamic shapes, 1 to 256 windows, best at 64.

The section `throughput` compares with it. Not measured: the accuracy of its forecasts (in half precision no node stays
in float32), the optimization levels of the builder.
"""

from pathlib import Path

from benchmarks.gpu.harness import ResultFile, Suite, list_precisions
from benchmarks.gpu.throughput import locate_naive_plan
from streamd.repository.versions import EngineVersion

SHAPES = (1, 64, 256)


def run(suite: Suite) -> None:
    """Build the plans that do not exist yet."""
    result = ResultFile(suite, "naive", not_measured=__doc__)
    if suite.arguments.backend != "tensorrt":
        print("naive: needs --backend tensorrt")
        return
    for version in suite.versions:
        for precision in list_precisions(suite, version):
            path = locate_naive_plan(suite, version, precision)
            if path.is_file():
                continue
            with suite.run_part(f"naive {version.name} {precision}"):
                path.parent.mkdir(parents=True, exist_ok=True)
                build(version, precision, path)
                result.append("built", {"plan": str(path), "bytes": path.stat().st_size})


def build(version: EngineVersion, precision: str, path: Path) -> None:
    """Parse the version's graph and build the plan. Raises `RuntimeError` with TensorRT's message."""
    from streamd.tools.engine.plan.library import load_builder

    tensorrt = load_builder()
    trt, library = tensorrt.module, tensorrt.installed
    builder = trt.Builder(library.logger)
    network = builder.create_network(tensorrt.make_network_flags(strongly_typed=False))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(version.onnx.read_bytes()):
        raise RuntimeError("; ".join(str(parser.get_error(index)) for index in range(parser.num_errors)))
    configuration = builder.create_builder_config()
    if precision == "fp16" and library.major_version < 11:
        configuration.set_flag(trt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    for name, shape in version.contract.input_shapes.items():
        profile.set_shape(name, *((batch, *shape) for batch in SHAPES))
    configuration.add_optimization_profile(profile)
    tensorrt.share_profiles(configuration)
    serialized = builder.build_serialized_network(network, configuration)
    if serialized is None:
        raise RuntimeError(library.take_last_error())
    path.write_bytes(bytes(serialized))
