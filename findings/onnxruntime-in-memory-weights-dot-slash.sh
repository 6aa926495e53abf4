#!/usr/bin/env bash
# ONNX Runtime 1.30.0 does not find weights in memory whose graph names their file with a leading "./".
#
# A graph with external data may be loaded from bytes when its data files are given with
# SessionOptions.add_external_initializers_from_files_in_memory(names, bytes, lengths). Version 1.30.0 finds the
# location "model.onnx.data", but not "./model.onnx.data", under whichever name the file is given: as the graph writes it,
# without "./", or with its absolute path. From disk the same version opens the same graph. Version 1.31.1 finds both
# locations under both relative names. Nothing in the message says that the prefix is the reason: it prints the location
# and says that it is "not found from the table user provided".
#
# Seen with onnxruntime 1.30.0 and 1.31.1, onnx 1.23.2, CPython 3.11, x86-64 Linux. Prints what each version does, and
# fails if that changes.
set -euo pipefail
python=${PYTHON:-python3.11}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/load.py" <<'PY'
import os
import sys

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper


def graph(location: str) -> tuple[bytes, bytes]:
    """Return an ONNX graph `y = x + w` whose 64 weights lie in another file, and the bytes of that file."""
    weights = np.arange(64, dtype=np.float32).tobytes()
    tensor = TensorProto(name="w", dims=[64], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(weights)))):
        tensor.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy"]
    body = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [tensor])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString(), weights


def outcome(source: object, options: ort.SessionOptions) -> str:
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {"x": np.zeros((1, 64), np.float32)})
        return "loaded" if (y == np.arange(64)).all() else "wrong"
    except Exception as error:
        return "not found" if "not found from the table" in str(error) else f"other: {error}"


os.chdir(sys.argv[1])
found = []
for location in ("model.onnx.data", "./model.onnx.data"):
    model, weights = graph(location)
    with open("model.onnx", "wb") as file:
        file.write(model)
    with open("model.onnx.data", "wb") as file:
        file.write(weights)
    found.append(f"{location} from disk: {outcome('model.onnx', ort.SessionOptions())}")
    for name in dict.fromkeys((location, "model.onnx.data")):
        options = ort.SessionOptions()
        options.add_external_initializers_from_files_in_memory([name], [weights], [len(weights)])
        found.append(f"{location} in memory as {name}: {outcome(model, options)}")
print("\n".join(found))
PY

expect() { # expect VERSION, the lines on standard input
  "$python" -m venv "$work/$1"
  "$work/$1/bin/python" -m pip install --quiet --disable-pip-version-check "onnxruntime==$1" onnx==1.23.2 numpy==2.4.6
  mkdir "$work/$1/files"
  "$work/$1/bin/python" "$work/load.py" "$work/$1/files" > "$work/$1/seen"
  echo "onnxruntime $1:" && sed 's/^/  /' "$work/$1/seen"
  diff "$work/$1/seen" - || { echo "onnxruntime $1 behaves otherwise now" >&2; exit 1; }
}

expect 1.30.0 <<'LINES'
model.onnx.data from disk: loaded
model.onnx.data in memory as model.onnx.data: loaded
./model.onnx.data from disk: loaded
./model.onnx.data in memory as ./model.onnx.data: not found
./model.onnx.data in memory as model.onnx.data: not found
LINES
expect 1.31.1 <<'LINES'
model.onnx.data from disk: loaded
model.onnx.data in memory as model.onnx.data: loaded
./model.onnx.data from disk: loaded
./model.onnx.data in memory as ./model.onnx.data: loaded
./model.onnx.data in memory as model.onnx.data: loaded
LINES
