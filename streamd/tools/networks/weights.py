"""A trained network from its weights in safetensors; a pickle is refused by name, unread.

The weights' folder says what network they are of: `training_info.json`, and `config.json` where it is a version.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from streamd.core.errors import BackendUnavailableError, BuildError, ConfigError
from streamd.regular_files import read_regular

if TYPE_CHECKING:
    from streamd.tools.networks.contract import NetworkContract

WEIGHTS_FILE = "weights.safetensors"
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".torchscript", ".ptl")
PICKLE_BEGINNINGS = (b"PK\x03\x04", b"\x80")
"""An archive as torch.save writes it, and a bare pickle."""

WHY_NOT_PICKLES = (
    "a PyTorch pickle runs code when it is read, and its weights_only mode did so too (CVE-2025-32434, torch before"
    " 2.6). Where you trust it, write the weights once, on a machine of no account:"
    " safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its weights, on the CPU, in evaluation; `info` is its `training_info.json`."""

    network: Any
    contract: NetworkContract
    architecture: str
    folder: Path
    info: dict[str, Any]


def find_weights(given: Path) -> Path:
    """The safetensors file that is meant, by its own path or its folder's; raises `ConfigError`."""
    path = given
    if given.is_dir():
        path = given / WEIGHTS_FILE
        pickles = sorted(each.name for each in given.iterdir() if each.suffix.lower() in PICKLES)
        if not path.is_file() and pickles:
            raise ConfigError(f"{given / pickles[0]}: refused: {WHY_NOT_PICKLES}")
    if path.suffix.lower() in PICKLES:
        raise ConfigError(f"{path}: refused: {WHY_NOT_PICKLES}")
    if not path.is_file():
        raise ConfigError(f"{given}: expected a folder with {WEIGHTS_FILE}, or a .safetensors file")
    with path.open("rb") as opened:
        begin = opened.read(9)
    # safetensors begins with the length of its header, of any bytes, and then the header's brace.
    if begin.startswith(PICKLE_BEGINNINGS) and begin[8:] != b"{":
        raise ConfigError(f"{path}: a pickle under another name, refused: {WHY_NOT_PICKLES}")
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: expected a .safetensors file")
    return path


def load_network(given: Path) -> TrainedNetwork:
    """Build the network that the folder tells of and give it its weights; raises `StreamdError`."""
    path = find_weights(given)
    load_file, build_network = _import_training()
    info = _read_json(path.with_name("training_info.json"))
    contract = _contract_of(path.parent)
    try:
        options = info["config"]
        architecture = str(options["architecture"])
        weights = load_file(str(path))
        # Ids of the machines trained on mean nothing elsewhere: a run's table is cut to what the contract has.
        weights["server.weight"] = weights["server.weight"][: contract.servers]
        network = build_network(architecture, contract, **options["model"])
        network.load_state_dict(weights)
        # Found after training, so no weight: how far the bands were widened (of a run not yet released, not at all).
        network.order.widening = float(info.get("calibration", {}).get("widening", 1.0))
    except KeyError as exc:
        raise BuildError(f"{path.parent}: {exc} is missing of training_info.json or of the weights") from exc
    except Exception as exc:  # safetensors and PyTorch share no class of errors
        raise BuildError(f"{path}: not the weights that training_info.json tells of: {exc}") from exc
    return TrainedNetwork(network.eval(), contract, architecture, path.parent, info)


def _contract_of(folder: Path) -> NetworkContract:
    """A version's own contract; a run has the one that all networks are trained for."""
    from streamd.tools.networks.contract import NetworkContract

    if not (folder / "config.json").is_file():
        return NetworkContract()
    said = _read_json(folder / "config.json")
    sizes = said.get("categorical_cardinalities", {})
    try:
        return NetworkContract(
            features=tuple(said["features"]),
            targets=tuple(said["targets"]),
            quantiles=tuple(said["quantiles"]),
            context_length=said["context_length"],
            horizon=said["horizon"],
            step_seconds=said["step_seconds"],
            servers=sizes.get("server_id", 1),
            statuses=sizes.get("status", 16),
        )
    except (KeyError, ValueError) as exc:
        raise BuildError(f"{folder / 'config.json'}: {exc}") from exc


def _import_training() -> tuple[Any, Any]:
    try:
        from safetensors.torch import load_file

        from streamd.tools.networks.registry import build_network
    except ImportError as exc:
        raise BackendUnavailableError(f"reading a network needs PyTorch ({exc}): pip install 'streamd[train]'") from exc
    return load_file, build_network


def _read_json(path: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = msgspec.json.decode(read_regular(path), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as exc:
        raise BuildError(f"{path}: {exc}; it lies beside the weights and says what network they are of") from exc
    return said
