#!/usr/bin/env bash
# TensorRT 11.4's ONNX parser makes a constant of an input that has a default, and says so nowhere.
#
# In ONNX an initializer with the name of a graph's input is the default of that input (IR.md, "Graphs"): a caller may
# feed another value. ONNX Runtime does it, and warns that the input will not be treated as a constant. The parser of
# TensorRT treats it as one: the network has no such input, and neither an error nor a warning, nor any other line of
# the log but "Importing initializer", says so. The builder also takes a profile with the shape of the lost input
# without a word. So a plan of such a graph builds, and always computes with the default. Remedy: remove the initializer
# from the graph that TensorRT gets.
#
# Seen with tensorrt-cu13-bindings 11.4.0.106 over the parser and the builder of TensorRT-RTX 1.7.1 (in
# onnxruntime-ep-nv-tensorrt-rtx-cu12 0.5.0), which have the same interface and need no GPU; beside them onnxruntime
# 1.31.1 and onnx 1.23.2. CPython 3.11, x86-64 Linux; needs cc and downloads 170 MB. Prints what each makes of one graph,
# and fails if that changes.
set -euo pipefail
python=${PYTHON:-python3.11}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$work/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" \
  tensorrt-cu13-bindings==11.4.0.106 onnxruntime-ep-nv-tensorrt-rtx-cu12==0.5.0
for wheel in "$work"/*.whl; do "$python" -m zipfile -e "$wheel" "$work/lib"; done

# The Python API loads libnvinfer.so.11 and libnvonnxparser.so.11, which are in no public package. This library stands
# for them and forwards to those of TensorRT-RTX, each with the version that it asks of a caller.
cat > "$work/forward.c" <<'C'
#include <dlfcn.h>
#include <stddef.h>
static void *at(const char *library, const char *name) { return dlsym(dlopen(library, RTLD_NOW | RTLD_GLOBAL), name); }
#define B(name) at(BUILDER, name)
#define P(name) (at(BUILDER, "getInferLibVersion"), at(PARSER, name))
int getInferLibVersion(void) { return ((int (*)(void))B("getInferLibVersion"))(); }
int getNvOnnxParserVersion(void) { return ((int (*)(void))P("getNvOnnxParserVersion"))(); }
void *createInferBuilder_INTERNAL(void *a, int v) {
    return ((void *(*)(void *, int))B("createInferBuilder_INTERNAL"))(a, getInferLibVersion());
}
void *createNvOnnxParser_INTERNAL(void *a, void *b, int v) {
    return ((void *(*)(void *, void *, int))P("createNvOnnxParser_INTERNAL"))(a, b, getNvOnnxParserVersion());
}
void *getPluginRegistry(void) { return ((void *(*)(void))B("getPluginRegistry"))(); }
void *getBuilderPluginRegistry(int c) { return ((void *(*)(int))B("getBuilderPluginRegistry"))(c); }
void *createInferRuntime_INTERNAL(void *a, int v) { return NULL; }
void *createInferRefitter_INTERNAL(void *a, void *b, int v) { return NULL; }
void *createNvOnnxParserRefitter_INTERNAL(void *a, void *b, int v) { return NULL; }
_Bool initLibNvInferPlugins(void *a, const char *b) { return 1; }
C
rtx=$work/lib/onnxruntime_ep_nv_tensorrt_rtx
ln -s libtensorrt_rtx.so.1.7.1 "$rtx/libtensorrt_rtx.so.1"
cc -shared -fPIC -DBUILDER="\"$rtx/libtensorrt_rtx.so.1\"" -DPARSER="\"$rtx/libtensorrt_onnxparser_rtx.so.1.7.1\"" \
  "$work/forward.c" -Wl,-soname,libnvinfer.so.11 -o "$work/lib/tensorrt_bindings/libnvinfer.so.11" -ldl
for name in libnvonnxparser.so.11 libnvinfer_plugin.so.11; do
  ln -s libnvinfer.so.11 "$work/lib/tensorrt_bindings/$name"
done

cat > "$work/parse.py" <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
import tensorrt_bindings as trt
from onnx import TensorProto, helper, numpy_helper


class Log(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[tuple[str, str]] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        self.lines.append((severity.name, message))


def make_graph(*, default: bool) -> bytes:
    """Return `y = x + m`, where `m` has a default of ones or none."""
    x, m, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xmy")
    weights = [numpy_helper.from_array(np.ones((1, 4), np.float32), "m")] if default else []
    graph = helper.make_graph([helper.make_node("Add", ["x", "m"], ["y"])], "g", [x, m], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def run_onnxruntime(model: bytes, **feeds: float) -> float:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return float(session.run(None, {name: np.full((1, 4), value, np.float32) for name, value in feeds.items()})[0][0, 0])


def build(model: bytes) -> str:
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(model)
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name in "xm":
        profile.set_shape(name, (1, 4), (1, 4), (1, 4))
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config) is not None
    said = sorted({severity for severity, _ in log.lines} - {"INFO", "VERBOSE"})
    return f"parsed {parsed}, {parser.num_errors} errors, inputs {inputs}, built {built}, above INFO {said}"


given = make_graph(default=True)
print(f"onnxruntime, x = 0: y = {run_onnxruntime(given, x=0)}")
print(f"onnxruntime, x = 0, m = 7: y = {run_onnxruntime(given, x=0, m=7)}")
print(f"tensorrt {trt.__version__}, m with a default: {build(given)}")
print(f"tensorrt {trt.__version__}, m without one: {build(make_graph(default=False))}")
PY
PYTHONPATH="$work/lib" "$work/venv/bin/python" "$work/parse.py" > "$work/seen"
cat "$work/seen"
diff "$work/seen" - <<'LINES' || { echo "they behave otherwise now" >&2; exit 1; }
onnxruntime, x = 0: y = 1.0
onnxruntime, x = 0, m = 7: y = 7.0
tensorrt 11.4.0.106, m with a default: parsed True, 0 errors, inputs ['x'], built True, above INFO []
tensorrt 11.4.0.106, m without one: parsed True, 0 errors, inputs ['x', 'm'], built True, above INFO []
LINES
