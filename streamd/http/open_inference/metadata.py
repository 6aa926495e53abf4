"""Describes the daemon and its model in the form of the Open Inference Protocol, from the contract.

Pure: returns messages.
"""

from typing import Any

from streamd import __version__
from streamd.core.contract import INPUT_TYPES, ModelContract
from streamd.http.open_inference.answers import OUTPUT
from streamd.runtime.inference_statistics import ComputeSums, TimeSum, VersionStatistics
from streamd.runtime.predict import MAX_WINDOWS, OPTIONAL_INPUTS

MODEL_NAME = "streamd"
"""The name of the only model. Its versions are the versions that serve, so a promotion changes no client."""

EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")

_DATATYPES = {"float32": "FP32", "int32": "INT32"}


def describe_server() -> dict[str, Any]:
    """Return what this server is and which extensions of the protocol it has."""
    return {"name": MODEL_NAME, "version": __version__, "extensions": list(EXTENSIONS)}


def describe_model(contract: ModelContract, version: str, backend: str) -> dict[str, Any]:
    """Return the tensors of the model; -1 is the batch axis."""
    return {
        "name": MODEL_NAME,
        "versions": [version],
        "platform": _name_platform(backend),
        "inputs": [
            {"name": name, "datatype": _DATATYPES[INPUT_TYPES[name]], "shape": [-1, *shape]}
            for name, shape in contract.input_shapes.items()
        ],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, *contract.output_shape]}],
    }


def describe_config(contract: ModelContract, version: str, backend: str) -> dict[str, Any]:
    """Return the configuration of the model: dimensions without the batch axis, and how requests are batched.

    `parameters` has what the contract knows and the protocol has no field for, as text: lists have commas.
    """
    facts = {
        "features": ",".join(contract.features),
        "targets": ",".join(contract.targets),
        "units": ",".join(contract.units.get(name, "") for name in contract.targets),
        "quantiles": ",".join(map(str, contract.quantiles)),
        "step_seconds": str(contract.step_seconds),
        "version": version,
    }
    if contract.memory_length:
        facts["memory_step_seconds"] = str(contract.memory_step_seconds)
    return {
        "name": MODEL_NAME,
        "platform": _name_platform(backend),
        "backend": backend,
        "max_batch_size": MAX_WINDOWS,
        "dynamic_batching": {},
        "input": [
            {
                "name": name,
                "data_type": f"TYPE_{_DATATYPES[INPUT_TYPES[name]]}",
                "dims": list(shape),
                "optional": name in OPTIONAL_INPUTS,
            }
            for name, shape in contract.input_shapes.items()
        ],
        "output": [{"name": OUTPUT, "data_type": "TYPE_FP32", "dims": list(contract.output_shape)}],
        "parameters": {name: {"string_value": text} for name, text in facts.items()},
    }


def describe_statistics(version: str, counts: VersionStatistics) -> dict[str, Any]:
    """Return the counts and times of the calls that a version answered since the daemon started.

    `version` is its number in it: perf_analyzer ends at one that is no number.
    """
    shown = {
        "name": MODEL_NAME,
        "version": str(counts.number),
        "version_name": version,
        "last_inference": int(counts.last_call * 1e3),
        "inference_count": counts.windows,
        "execution_count": counts.executions,
        "inference_stats": {
            "success": _describe_time(counts.success),
            "fail": _describe_time(counts.fail),
            "queue": _describe_time(counts.queue),
            **_describe_compute(counts.compute),
        },
        "batch_stats": [
            {"batch_size": size, **_describe_compute(sums)} for size, sums in sorted(counts.batches.items())
        ],
    }
    return {"model_stats": [shown]}


def _describe_compute(sums: ComputeSums) -> dict[str, dict[str, int]]:
    return {
        "compute_input": _describe_time(sums.inputs),
        "compute_infer": _describe_time(sums.lane),
        "compute_output": _describe_time(sums.outputs),
    }


def _describe_time(time: TimeSum) -> dict[str, int]:
    return {"count": time.count, "ns": int(time.seconds * 1e9)}


def _name_platform(backend: str) -> str:
    """Return the name that the protocol has for what runs the model; the backend's own if it has none."""
    if backend.startswith("onnxruntime"):
        return "onnxruntime_onnx"
    return "tensorrt_plan" if backend == "tensorrt" else backend
