"""The price of the Open Inference Protocol: what a call costs the daemon, beside the same windows in `/v1/predict`.

Eight callers on connections of their own send calls of 1 and of 8 windows, one after another: to `/v1/predict` in
MessagePack, and to `/v2` with bytes and with JSON, both ways. The three forms take turns in one run, so that the noise
of the machine falls on all of them. First with the embedded model on the CPU, then with lanes that cost nothing
(`gpu/instant_serve.py`): what the host takes. Figures are the medians of the rounds: CPU time of the whole daemon for a
call, and calls a second. The callers share the machine's cores with the daemon; they send what was encoded before, and
decode nothing. JSON has each number with all digits of a float32, as tritonclient writes it. Not measured: compression,
a GPU, TLS, a network, other work of the daemon at the same time, the time that a client takes to encode and decode.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import uvloop

from benchmarks.harness import ROOT, DaemonProcess, describe_machine, print_table, running_daemon, write_result
from streamd.http.open_inference.messages import HEADER_LENGTH
from streamd.repository.versions import EngineRepository

CALLERS = 8
WINDOWS = (1, 8)
MODELS = {"patch forecaster on the CPU": "streamd", "lanes that cost nothing": "benchmarks.gpu.instant_serve"}
"""What is measured, with the program of the daemon."""

PREDICT = "/v1/predict, MessagePack"
MAX_ANSWER_HEAD_BYTES = 2**16

Inputs = Mapping[str, npt.NDArray[Any]]


@dataclass
class FormFigures:
    """The figures of one form of call, one of each round."""

    cpu_milliseconds: list[float] = field(default_factory=list)
    calls_a_second: list[float] = field(default_factory=list)


def make_inputs(windows: int) -> dict[str, npt.NDArray[Any]]:
    """Make windows of random numbers for the embedded model; one feature is missing in all of them."""
    random = np.random.default_rng(windows)
    inputs: dict[str, npt.NDArray[Any]] = {}
    for name, shape in EngineRepository(ROOT / "engines").choose().contract.input_shapes.items():
        is_category = name.endswith("_cat")
        array = random.random((windows, *shape), np.float32)
        inputs[name] = np.zeros(array.shape, np.int32) if is_category else array
    inputs["encoder_cont"][:, :, 5] = np.nan
    return inputs


def make_requests(inputs: Inputs) -> dict[str, bytes]:
    """Return the bytes of a request by the form of the call."""
    tensors = {
        name: {"shape": list(array.shape), "dtype": array.dtype.name, "data": array.tobytes()}
        for name, array in inputs.items()
    }
    heads = {
        name: {"name": name, "shape": list(array.shape), "datatype": "FP32" if array.dtype == np.float32 else "INT32"}
        for name, array in inputs.items()
    }
    sizes = [{**heads[name], "parameters": {"binary_data_size": array.nbytes}} for name, array in inputs.items()]
    header = json.dumps({"inputs": sizes, "parameters": {"binary_data_output": True}}).encode()
    numbers = [{**heads[name], "data": array.reshape(-1).tolist()} for name, array in inputs.items()]
    infer = "/v2/models/streamd/infer"
    return {
        PREDICT: make_post(
            "/v1/predict", msgspec.msgpack.encode({"inputs": tensors}), {"Content-Type": "application/msgpack"}
        ),
        "/v2, bytes": make_post(
            infer,
            header + b"".join(array.tobytes() for array in inputs.values()),
            {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))},
        ),
        "/v2, JSON": make_post(infer, json.dumps({"inputs": numbers}).encode(), {"Content-Type": "application/json"}),
    }


def make_post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return a request of HTTP/1.1."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "\r\n"]).encode() + body


async def send_for(seconds: float, port: int, request: bytes) -> int:
    """Send a request again and again on a connection, and return how often it was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MAX_ANSWER_HEAD_BYTES)
    until, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").lower().split("\r\n")
        if " 200 " not in head[0]:
            raise RuntimeError(f"the daemon answered {head[0]!r}")
        length = next(int(line.partition(":")[2]) for line in head if line.startswith("content-length:"))
        await reader.readexactly(length)
        count += 1
    writer.close()
    await writer.wait_closed()
    return count


async def measure_turn(daemon: DaemonProcess, request: bytes, seconds: float) -> tuple[float, float]:
    """Let all callers send; returns the milliseconds of CPU time of a call, and calls a second."""
    cpu, began = daemon.read_cpu_seconds(), time.perf_counter()
    counts = await asyncio.gather(*(send_for(seconds, daemon.port, request) for _ in range(CALLERS)))
    took, cpu = time.perf_counter() - began, daemon.read_cpu_seconds() - cpu
    return cpu / sum(counts) * 1e3, sum(counts) / took


async def measure_windows(daemon: DaemonProcess, windows: int, rounds: int, seconds: float) -> dict[str, FormFigures]:
    """Measure calls of so many windows, all forms in turns; the first round is to warm up."""
    requests = make_requests(make_inputs(windows))
    names = list(requests)
    figures = {name: FormFigures() for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            cpu, rate = await measure_turn(daemon, requests[name], seconds)
            if number:
                figures[name].cpu_milliseconds.append(cpu)
                figures[name].calls_a_second.append(rate)
    return figures


async def measure(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return the medians by model, windows in a call and form."""
    found: list[dict[str, Any]] = []
    for model, module in MODELS.items():
        async with running_daemon(module, max_servers=256, backend="onnxruntime-cpu", warmup_seconds=2) as daemon:
            for windows in WINDOWS:
                figures = await measure_windows(daemon, windows, rounds, seconds)
                usual = median(figures[PREDICT].cpu_milliseconds)
                found += [
                    {
                        "model": model,
                        "windows": windows,
                        "form": name,
                        "cpu_ms_a_call": round(median(each.cpu_milliseconds), 3),
                        "cpu_beside_predict": round(median(each.cpu_milliseconds) / usual, 2),
                        "cpu_ms_of_rounds": [round(value, 3) for value in each.cpu_milliseconds],
                        "calls_a_second": round(median(each.calls_a_second), 1),
                    }
                    for name, each in figures.items()
                ]
    return found


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="the length of a turn")
    arguments = parser.parse_args()
    load = [round(os.getloadavg()[0], 1)]
    found = uvloop.run(measure(arguments.rounds, arguments.seconds))
    load.append(round(os.getloadavg()[0], 1))
    columns = ("model", "windows", "form", "cpu_ms_a_call", "cpu_beside_predict", "calls_a_second")
    print_table(f"{CALLERS} callers", columns, [[each[column] for column in columns] for each in found])
    result = {
        "machine": {**describe_machine(), "load_before_and_after": load},
        "callers": CALLERS,
        "rounds": arguments.rounds,
        "seconds_a_turn": arguments.seconds,
        "not_measured": (__doc__ or "").split("Not measured: ")[1].strip(),
        "figures": found,
    }
    print(write_result("open_inference", result))


if __name__ == "__main__":
    main()
