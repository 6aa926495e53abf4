"""`streamd engine export`: trained weights to a new engine version, whose graph provably computes what PyTorch does."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamd.core.errors import BackendUnavailableError, BuildError
from streamd.tools.engine.flags import parse_batch_sizes

if TYPE_CHECKING:
    from streamd.tools.networks.weights import TrainedNetwork

DESCRIPTION = """\
Make an engine version of trained weights: an ONNX graph that takes any batch size, with its manifest.

Weights are read from safetensors only. A pickle (.pt, .pth, .ckpt, .bin) is refused, because reading it would execute
code that it contains (CVE-2025-32434). The opset is fixed (17, which every TensorRT since 8.6 takes), the batch axis is
asserted to be dynamic, ONNX's checker reads the graph in full, and ONNX Runtime is compared with PyTorch at several
batch sizes. The version appears whole or not at all. Needs the extra `train`.
"""

EXAMPLES = """\
examples:
  streamd engine export engines/patch_tensorrt_20261129_232000
  streamd engine export runs/patch --name patch --data fleet.parquet --batches 1,2,7,32,256
"""

DEFAULT_BATCHES = (1, 2, 3, 8, 31, 32, 64)
EXPORT_WINDOWS = 64
"""Number of windows on which ONNX Runtime is compared with PyTorch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("weights", type=Path, metavar="WEIGHTS",
                        help="folder of a run or a version with weights.safetensors, or that file")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FILE",
                        help="windows to compare on, as for validate [default: examples/fleet]")  # fmt: skip
    parser.add_argument("--batches", type=parse_batch_sizes, default=DEFAULT_BATCHES, metavar="N,...",
                        help=f"batch sizes to compare at [default: {','.join(map(str, DEFAULT_BATCHES))}]")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="folder of versions [default: that of the source, or engines]")  # fmt: skip
    parser.add_argument("--name", help="name of the new version, before _tensorrt_<stamp> [default: the source's]")
    parser.add_argument("--default", action="store_true",
                        help="mark in the manifest: the new version serves unless another is pinned or"
                             " promoted")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def main(args: argparse.Namespace) -> int:
    """Export, and return the exit status. Raises `StreamdError`."""
    from streamd.repository.versions import strip_stamp
    from streamd.tools.engine.output.atomic_version import NewVersion
    from streamd.tools.engine.progress import Progress
    from streamd.tools.networks.weights import find_weights, load_network

    progress = Progress(quiet=args.quiet)
    folder = find_weights(args.weights).parent
    is_version = (folder / "config.json").is_file()
    root = args.out or (folder.parent if is_version else Path("engines"))
    with NewVersion(root, args.name or strip_stamp(folder.name), default=args.default) as new:
        network = load_network(args.weights)
        progress.print_line(f"{folder.name}: {network.architecture}, exporting")
        info = write_version(network, new.folder, read_compared_windows(args.data, network), args.batches)
        info["command"] = args.command_line
        final = new.publish(json.loads((new.folder / "config.json").read_text()), info)
    error = info["largest_relative_error"]
    sizes = ", ".join(map(str, args.batches))
    progress.print_line(f"ONNX Runtime and PyTorch agree to {error:.1e} at batch sizes {sizes}")
    result = {"folder": str(final), "largest_relative_error": error, "batches": list(args.batches)}
    print(json.dumps(result, indent=2) if args.json else result["folder"])
    return 0


def write_version(
    network: "TrainedNetwork", folder: Path, windows: dict[str, Any], batches: tuple[int, ...]
) -> dict[str, Any]:
    """Write all files of a version, checked, and return its record; raises `BuildError`, `BackendUnavailableError`."""
    try:
        import torch

        from streamd.repository.schema import VERSION_RECORD
        from streamd.tools.training.export import VersionWriter
    except ImportError as exc:
        raise BackendUnavailableError(f"exporting needs PyTorch ({exc}): pip install 'streamd[train]'") from exc
    writer = VersionWriter(folder, network.architecture, network.contract)
    tensors = [torch.from_numpy(windows[name]) for name in network.contract.input_shapes]
    try:
        writer.write_version(network.network, network.info, tensors, batches)
    except ValueError as exc:
        raise BuildError(f"{network.folder}: {exc}") from exc
    for name in ("MODEL_CARD.md", "server_mapping.json"):
        if (network.folder / name).is_file():
            (folder / name).write_bytes((network.folder / name).read_bytes())
    info: dict[str, Any] = json.loads((folder / VERSION_RECORD).read_text())
    return info


def read_compared_windows(data: Path | None, network: "TrainedNetwork") -> dict[str, Any]:
    """Return windows to compare on by input name, some of them hard; raises `ConfigError`."""
    from dataclasses import replace

    from streamd.core.contract import INPUT_TYPES
    from streamd.tools.engine.gate.truth import read_judged_windows
    from streamd.tools.engine.graph.onnx_graph import GraphTensorSpec, Signature
    from streamd.tools.networks.contract import FEATURE_UNITS

    units = {name: FEATURE_UNITS.get(name, "1") for name in network.contract.features}
    contract = replace(network.contract, units=units)
    specs = tuple(GraphTensorSpec(name, INPUT_TYPES[name], shape) for name, shape in contract.input_shapes.items())
    return read_judged_windows(data, Signature(specs, ()), contract, EXPORT_WINDOWS).windows
