"""Requests of the Open Inference Protocol: captured ones, made ones, and what an answer holds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.http.open_inference.messages import HEADER_LENGTH
from tests.support.http_harness import HttpDaemon, Message, Reply
from tests.support.predict_inputs import Inputs

FIXTURES = Path(__file__).parents[1] / "fixtures" / "open_inference"
INFER = "/v2/models/streamd/infer"

DATATYPES = {
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
}
PLAIN = {"Accept-Encoding": "identity"}
"""A header without which the client of the tests would ask for compressed answers."""


@dataclass(frozen=True)
class CapturedRequest:
    """A request as a client sent it."""

    path: str
    headers: dict[str, str]
    body: bytes


def list_captured_requests() -> list[str]:
    """Return the names of all captured requests, such as `tritonclient/json`."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in FIXTURES.glob("*/*.body"))


def read_captured_request(name: str) -> CapturedRequest:
    head = json.loads((FIXTURES / f"{name}.json").read_text())
    headers = {key: value for key, value in head["headers"] if key not in ("Host", "Content-Length")}
    return CapturedRequest(head["path"], headers, (FIXTURES / f"{name}.body").read_bytes())


def make_message(given: Inputs, *, is_binary: bool, **more: Any) -> tuple[Message, bytes]:
    """Return the JSON of a request, and the bytes behind it."""
    inputs: list[Message] = []
    behind = b""
    for name, array in given.items():
        entry: Message = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}
        if is_binary:
            data = np.ascontiguousarray(array).tobytes()
            entry["parameters"] = {"binary_data_size": len(data)}
            behind += data
        else:
            entry["data"] = array.reshape(-1).tolist()
        inputs.append(entry)
    return {"inputs": inputs, **more}, behind


async def post_message(daemon: HttpDaemon, message: Message, behind: bytes = b"", path: str = INFER) -> Reply:
    """Send a request; missing numbers in its JSON are a bare NaN, as real clients write them."""
    header = json.dumps(message).encode()
    return await daemon.call("POST", path, header + behind, {HEADER_LENGTH: str(len(header)), **PLAIN})


async def infer(daemon: HttpDaemon, given: Inputs, *, is_binary: bool = True, **more: Any) -> Reply:
    return await post_message(daemon, *make_message(given, is_binary=is_binary, **more))


def read_answer(reply: Reply) -> Message:
    """Return the JSON of an answer, whether or not bytes follow it."""
    length = reply.headers.get(HEADER_LENGTH)
    message = json.loads(reply.data[: len(reply.data) if length is None else int(length)])
    assert isinstance(message, dict)
    return message


def read_forecasts(reply: Reply) -> npt.NDArray[np.float32]:
    """Return the forecasts of an answer, which must be one that succeeded."""
    assert reply.status == 200, reply.data
    (output,) = read_answer(reply)["outputs"]
    assert (output["name"], output["datatype"]) == ("predictions", "FP32")
    if "data" in output:
        return np.array(output["data"], "<f4").reshape(output["shape"])
    behind = reply.data[int(reply.headers[HEADER_LENGTH]) :]
    assert len(behind) == output["parameters"]["binary_data_size"]
    return np.frombuffer(behind, "<f4").reshape(output["shape"])
