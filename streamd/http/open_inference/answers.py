"""Answers to requests for inference: forecasts in JSON, or as bytes behind a JSON header, compressed or not.

Knows no request but its choices; writes nothing to a connection.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np

from streamd.core.arrays import Float32
from streamd.core.errors import InvalidTensorError
from streamd.http.open_inference.messages import InferenceRequest
from streamd.http.wire.codecs import Encoding, encode
from streamd.http.wire.tensors import WIRE_DTYPES

OUTPUT = "predictions"
"""The name of the only output."""

_FLOAT32 = WIRE_DTYPES["float32"]

COMPRESSION_LEVEL = 1
"""The level that zlib compresses at. Level 6 takes six times the time for JSON, which becomes a tenth smaller."""

_WINDOW_BITS = {"gzip": 31, "deflate": 15}


class InferenceAnswer(NamedTuple):
    """The body of an answer; `header_bytes` is the size of its JSON if the bytes of the tensor follow, else `None`."""

    body: bytes
    header_bytes: int | None


def is_output_binary(request: InferenceRequest) -> bool:
    """Whether a caller wants the output as bytes; raises `InvalidTensorError` for an unknown output."""
    parameters = request.parameters
    is_binary = parameters is not None and parameters.binary_data_output
    for each in request.outputs or ():
        if each.name != OUTPUT:
            raise InvalidTensorError(f"output {each.name!r} is unknown, expected {OUTPUT}")
        if each.parameters is None:
            continue
        if each.parameters.classification is not None or each.parameters.shared_memory_region is not None:
            raise InvalidTensorError(f"output {OUTPUT} is requested as classes or in shared memory, expected neither")
        if each.parameters.binary_data is not None:
            is_binary = each.parameters.binary_data
    return is_binary


def make_answer(
    predictions: Float32, names: tuple[str, str], request_id: str | None, *, is_binary: bool
) -> InferenceAnswer:
    """Return the answer with `predictions (batch, ...) float32`; `names` are those of the model and its version."""
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": list(predictions.shape)}
    values = np.ascontiguousarray(predictions, _FLOAT32)
    if is_binary:
        output["parameters"] = {"binary_data_size": values.nbytes}
    else:
        output["data"] = values.reshape(-1)
    message: dict[str, Any] = {"model_name": names[0], "model_version": names[1], "outputs": [output]}
    if request_id:  # some clients send an empty one
        message["id"] = request_id
    header = encode(message, Encoding.JSON)
    if is_binary:
        return InferenceAnswer(b"".join((header, values.data)), len(header))
    return InferenceAnswer(header, None)


def choose_coding(accepted: str) -> str | None:
    """Return the coding to compress an answer in, by the value of Accept-Encoding; `None` if none is accepted."""
    weights = dict(_parse_weight(each) for each in accepted.lower().split(","))
    coding = max(_WINDOW_BITS, key=lambda name: weights.get(name, 0.0))
    return coding if weights.get(coding, 0.0) > 0 else None


def _parse_weight(given: str) -> tuple[str, float]:
    """Return the name and the weight of an entry such as `gzip;q=0.5`; a weight that is no number counts as 0."""
    name, _, parameter = given.partition(";")
    _, is_given, weight = parameter.partition("q=")
    try:
        return name.strip(), float(weight) if is_given else 1.0
    except ValueError:
        return name.strip(), 0.0


def compress(body: bytes, coding: str) -> bytes:
    """Return a body in a coding that `choose_coding` returned; may run in any thread."""
    compressor = zlib.compressobj(COMPRESSION_LEVEL, wbits=_WINDOW_BITS[coding])
    return compressor.compress(body) + compressor.flush()
