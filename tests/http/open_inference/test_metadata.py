"""Tests `streamd/http/open_inference/metadata.py`: what clients read before they send a request."""

from dataclasses import replace

import pytest

from streamd import __version__
from streamd.core.contract import ModelContract
from streamd.http.open_inference.metadata import describe_config, describe_model, describe_server, describe_statistics
from streamd.runtime.inference_statistics import VersionStatistics
from tests.support.http_harness import CONTRACT

ONE_TARGET = ModelContract(("a", "b"), ("b",), (0.5, 0.9), context_length=3, horizon=2, step_seconds=60)


def test_the_server_names_its_release_and_only_the_extensions_that_it_has() -> None:
    extensions = ["binary_tensor_data", "model_configuration", "statistics"]
    assert describe_server() == {"name": "streamd", "version": __version__, "extensions": extensions}


def test_the_model_has_the_tensors_of_the_contract() -> None:
    assert describe_model(CONTRACT, "v1", "onnxruntime-cpu") == {
        "name": "streamd",
        "versions": ["v1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "encoder_cont", "datatype": "FP32", "shape": [-1, 8, 3]},
            {"name": "encoder_cat", "datatype": "INT32", "shape": [-1, 8, 2]},
            {"name": "decoder_cont", "datatype": "FP32", "shape": [-1, 4, 4]},
            {"name": "decoder_cat", "datatype": "INT32", "shape": [-1, 4, 2]},
        ],
        "outputs": [{"name": "predictions", "datatype": "FP32", "shape": [-1, 4, 2, 3]}],
    }


@pytest.mark.parametrize("contract", [CONTRACT, ONE_TARGET])
def test_the_configuration_has_the_same_tensors_without_the_batch_axis(contract: ModelContract) -> None:
    model, config = describe_model(contract, "v1", "tensorrt"), describe_config(contract, "v1", "tensorrt")
    assert config["max_batch_size"] > 1
    assert config["platform"] == model["platform"] == "tensorrt_plan"
    for kind in ("input", "output"):
        shown = [(each["name"], each["data_type"], [-1, *each["dims"]]) for each in config[kind]]
        expected = [(each["name"], f"TYPE_{each['datatype']}", each["shape"]) for each in model[f"{kind}s"]]
        assert shown == expected
    assert [each["name"] for each in config["input"] if each["optional"]] == ["encoder_cat", "decoder_cat"]


def test_a_memory_is_an_optional_input() -> None:
    contract = replace(ONE_TARGET, memory_length=5, memory_step_seconds=120)
    shown = describe_model(contract, "v1", "fake")["inputs"]
    assert shown[4:] == [{"name": "memory_cont", "datatype": "FP32", "shape": [-1, 5, 2]}]
    config = describe_config(contract, "v1", "fake")
    assert config["input"][4] == {"name": "memory_cont", "data_type": "TYPE_FP32", "dims": [5, 2], "optional": True}
    assert config["parameters"]["memory_step_seconds"] == {"string_value": "120"}


def test_the_configuration_says_what_the_columns_mean() -> None:
    parameters = describe_config(CONTRACT, "v1", "fake")["parameters"]
    assert {name: each["string_value"] for name, each in parameters.items()} == {
        "features": "cpu_user,mem_used,load_average",
        "targets": "cpu_user,load_average",
        "units": "percent,1",
        "quantiles": "0.1,0.5,0.9",
        "step_seconds": "60",
        "version": "v1",
    }


def test_statistics_have_nanoseconds_and_batches_by_their_size() -> None:
    counts = VersionStatistics(number=3, windows=9, last_call=1_700_000_000.25)
    counts.success.add(0.5)
    counts.fail.add(0.0)
    counts.queue.add(0.25)
    for sums in (counts.compute, counts.batches[8], counts.batches[1]):
        sums.inputs.add(0.125)
        sums.lane.add(2.0)
        sums.outputs.add(1e-9)
    compute = {
        "compute_input": {"count": 1, "ns": 125_000_000},
        "compute_infer": {"count": 1, "ns": 2_000_000_000},
        "compute_output": {"count": 1, "ns": 1},
    }
    assert describe_statistics("v1", counts) == {
        "model_stats": [
            {
                "name": "streamd",
                "version": "3",
                "version_name": "v1",
                "last_inference": 1_700_000_000_250,
                "inference_count": 9,
                "execution_count": 2,
                "inference_stats": {
                    "success": {"count": 1, "ns": 500_000_000},
                    "fail": {"count": 1, "ns": 0},
                    "queue": {"count": 1, "ns": 250_000_000},
                    **compute,
                },
                "batch_stats": [{"batch_size": 1, **compute}, {"batch_size": 8, **compute}],
            }
        ]
    }
