"""Forecasts a second on one GPU and on two, with the same number of lanes on each, in turns.

Not measured: the daemon around it, one fleet on two devices over time, more than two devices.
"""

from typing import Any

from benchmarks.gpu.harness import ResultFile, Suite, list_precisions, make_backend, open_lanes
from benchmarks.gpu.throughput import Cell, SlotTurns, fill_inputs, make_measurement, no_fill, take_turns
from benchmarks.gpu.windows import Gatherer, make_filled_store, make_windows
from benchmarks.harness import print_table
from streamd.inference import cuda
from streamd.repository.versions import EngineVersion

BUCKETS = (64, 256)
LANES_A_DEVICE = (4, 8)


def run(suite: Suite) -> None:
    """Measure every version in every precision."""
    result = ResultFile(suite, "two_gpus", not_measured=__doc__)
    if suite.arguments.backend == "tensorrt" and cuda.count_devices() < 2:
        print(f"two_gpus: {cuda.count_devices()} devices; expected 2")
        return
    contract = suite.versions[0].contract
    slots = SlotTurns(suite.arguments.servers, Gatherer(contract, make_filled_store(contract, suite.arguments.servers)))
    rows: list[dict[str, Any]] = []
    for version in suite.versions:
        for precision in list_precisions(suite, version):
            with suite.run_part(f"two_gpus {version.name} {precision}"):
                for row in measure(suite, version, precision, slots):
                    rows.append({"engine": version.name, "precision": precision, **row})
                    result.append("cells", rows[-1])
    head = ("engine", "inputs", "lanes a device", "bucket", "one GPU /s", "two GPUs /s", "ratio")
    keys = ("engine", "inputs", "lanes_a_device", "bucket", "one", "two", "ratio")
    print_table("One GPU and two", head, [tuple(row[name] for name in keys) for row in rows])


def measure(suite: Suite, version: EngineVersion, precision: str, slots: SlotTurns) -> list[dict[str, Any]]:
    """Measure every number of lanes and bucket, with and without the gather."""
    most = LANES_A_DEVICE[-1]
    buckets = tuple(bucket for bucket in BUCKETS if bucket in suite.buckets)
    one_backend = make_backend(suite, version, precision, devices=(0,), buckets=buckets, lanes_per_device=most)
    two_backend = make_backend(suite, version, precision, devices=(0, 1), buckets=buckets, lanes_per_device=most)
    windows = make_windows(version.contract, 256)
    found = []
    with open_lanes(one_backend, most) as one, open_lanes(two_backend, 2 * most) as two:
        fill_inputs([*one, *two], windows)
        for count in LANES_A_DEVICE:
            for bucket in buckets:
                for inputs, fill in (("gathered", slots.make_fill(bucket)), ("kept", no_fill)):
                    alone, both = Cell("one", count, bucket), Cell("two", 2 * count, bucket)
                    turns = [
                        (alone, make_measurement(one[:count], bucket, fill)),
                        (both, make_measurement(two[: 2 * count], bucket, fill)),
                    ]
                    take_turns(turns, suite.seconds)
                    found.append(_row(inputs, count, bucket, alone, both))
    return found


def _row(inputs: str, count: int, bucket: int, alone: Cell, both: Cell) -> dict[str, Any]:
    first, second = (cell.summarize() for cell in (alone, both))
    rates = {"one": first["forecasts_per_second"], "two": second["forecasts_per_second"]}
    ratio = round(rates["two"] / max(rates["one"], 1e-9), 3)
    detail = {"one_gpu": first, "two_gpus": second}
    return {"inputs": inputs, "lanes_a_device": count, "bucket": bucket, **rates, "ratio": ratio, **detail}
