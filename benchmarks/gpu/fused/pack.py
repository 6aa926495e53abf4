"""Packs the weights of one patch forecaster in the order in which the kernel `forecast_patch` reads them.

The kernel computes the network of `KERNEL_VERSIONS`, which no longer ship, and no other; `measure.py` says where to get
them. Layer norms' affine parts are put into the weights behind them, and the scale of the scores into the queries.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamd.core.arrays import Float32

Weights = dict[str, Float32]
WIDTH, HEADS, BLOCKS, HIDDEN, PATCH = 128, 4, 3, 512, 24
UNBOUNDED = 1e31
KERNEL_VERSIONS = ("patch_tensorrt_20261121_160844", "patch_tensorrt_20261129_132957")
"""The versions whose network the kernel computes: their graphs differ, their weights are the same."""


class OtherNetworkError(Exception):
    """A version whose network is not the one of the kernel."""


def read_weights(path: Path) -> Weights:
    """Read a file of safetensors in float32."""
    content = path.read_bytes()
    (size,) = struct.unpack_from("<Q", content)
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            found[name] = np.frombuffer(content[8 + size + begin : 8 + size + end], "<f4").reshape(entry["shape"])
    return found


def pack_right(matrix: Float32) -> npt.NDArray[np.float16]:
    """Return `(K / 32, N / 8, 32, 8)`: of each tile of 32 rows and 8 columns the 8 numbers of each lane."""
    rows, columns = matrix.shape
    lane = np.arange(32)
    row = np.array([0, 1, 8, 9, 16, 17, 24, 25])[None, :] + 2 * (lane % 4)[:, None]
    tiles = matrix.reshape(rows // 32, 32, columns // 8, 8).transpose(0, 2, 1, 3)
    return tiles[:, :, row, (lane // 4)[:, None]].astype(np.float16)


def pack_left(matrix: Float32) -> npt.NDArray[np.float16]:
    """Return `(M / 16, K / 16, 32, 8)`: of each tile of 16 rows and 16 columns the 8 numbers of each lane."""
    rows, columns = matrix.shape
    lane = np.arange(32)
    row = np.array([0, 0, 8, 8, 0, 0, 8, 8])[None, :] + (lane // 4)[:, None]
    column = np.array([0, 1, 0, 1, 8, 9, 8, 9])[None, :] + 2 * (lane % 4)[:, None]
    tiles = matrix.reshape(rows // 16, 16, columns // 16, 16).transpose(0, 2, 1, 3)
    return tiles[:, :, row, column].astype(np.float16)


def pack(folder: Path) -> tuple[npt.NDArray[np.float16], Float32, npt.NDArray[np.int32]]:
    """Return the packed weights, the numbers in single precision, and the columns of the targets.

    Raises `OtherNetworkError` if the version is none of `KERNEL_VERSIONS`.
    """
    contract = json.loads((folder / "config.json").read_text())
    if contract["name"] not in KERNEL_VERSIONS:
        raise OtherNetworkError(
            f"{folder}: the kernel does not compute the network of {contract['name']}; expected one of "
            f"{', '.join(KERNEL_VERSIONS)}, which the history of engines/ has"
        )
    given = read_weights(folder / "weights.safetensors")
    parts: list[npt.NDArray[np.float16]] = []
    biases: list[Float32] = []
    parts.append(pack_right(np.concatenate([given["past.weight"].T, given["future.weight"].T])))
    for block in range(BLOCKS):
        _pack_block(given, f"blocks.{block}.", parts, biases)
    gain, shift = given["norm.weight"], given["norm.bias"]
    weight = given["output.weight"]
    columns = np.zeros((WIDTH, -(-len(weight) // 32) * 32), np.float32)
    columns[:, : len(weight)] = (weight * gain).T
    parts += [pack_right(columns[:, at : at + 32]) for at in range(0, columns.shape[1], 32)]
    out_bias = given["output.bias"] + weight @ shift
    targets = [contract["features"].index(name) for name in contract["targets"]]
    ceilings = [100.0 if contract["units"][name] == "percent" else UNBOUNDED for name in contract["targets"]]
    past = PATCH * np.arange(contract["context_length"] // PATCH) - contract["context_length"]
    turn = 2 * np.pi * contract["step_seconds"] * past
    angles = [f(turn / period) for period in (86_400.0, 604_800.0) for f in (np.cos, np.sin)]
    training = json.loads((folder / "training_info.json").read_text())
    widening = training["calibration"]["widening"]
    numbers = [
        np.array([*ceilings, widening]), given["statistics.weight"], given["statistics.bias"], given["calendar.weight"],
        given["past.bias"], given["future.bias"], given["status.weight"], given["server.weight"][:1],
        given["position"], np.stack(angles, -1), *biases, out_bias,
    ]  # fmt: skip
    flat = np.concatenate([np.asarray(each, np.float32).reshape(-1) for each in numbers])
    return np.concatenate([each.reshape(-1) for each in parts]), flat, np.array(targets, np.int32)


def _pack_block(given: Weights, name: str, parts: list[npt.NDArray[np.float16]], biases: list[Float32]) -> None:
    gain, shift = given[f"{name}norms.0.weight"], given[f"{name}norms.0.bias"]
    project = given[f"{name}attention.project.weight"]
    bias = given[f"{name}attention.project.bias"] + project @ shift
    project = project * gain
    size = WIDTH // HEADS
    scale = np.float32(size**-0.5)
    query, key, value = project[:WIDTH] * scale, project[WIDTH : 2 * WIDTH], project[2 * WIDTH :]
    close = given[f"{name}attention.close.weight"].T
    for head in range(HEADS):
        rows = slice(head * size, (head + 1) * size)
        parts += [pack_right(query[rows].T), pack_right(key[rows].T), pack_left(value[rows]), pack_right(close[rows])]
    biases += [bias[:WIDTH] * scale, bias[WIDTH:], given[f"{name}attention.close.bias"]]
    gain, shift = given[f"{name}norms.1.weight"], given[f"{name}norms.1.bias"]
    first, second = given[f"{name}feed_forward.0.weight"], given[f"{name}feed_forward.3.weight"].T
    biases += [given[f"{name}feed_forward.0.bias"] + first @ shift, given[f"{name}feed_forward.3.bias"]]
    first = first * gain
    for at in range(0, HIDDEN, 32):
        parts += [pack_right(first[at : at + 32].T), pack_right(second[at : at + 32])]
