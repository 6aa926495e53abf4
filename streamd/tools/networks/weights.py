"""Reads a trained network from its weights in safetensors; a pickle is refused by name and never read.

The folder of the weights describes the network in `training_info.json` and, if it is a version, in `config.json`. This
module writes nothing, and it imports PyTorch only when a network is loaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from streamd.core.contract import MEMORY_LENGTH
from streamd.core.errors import BackendUnavailableError, BuildError, ConfigError
from streamd.regular_files import read_regular
from streamd.tools.networks.contract import NetworkContract

WEIGHTS_FILE = "weights.safetensors"
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".torchscript", ".ptl")
PICKLE_BEGINNINGS = (b"PK\x03\x04", b"\x80")
"""The first bytes of an archive from `torch.save`, and of a bare pickle."""

WHY_NOT_PICKLES = (
    "a PyTorch pickle runs code when it is read, and its weights_only mode did so too (CVE-2025-32434, torch before"
    " 2.6). If you trust it, convert the weights once, on a machine without anything of value:"
    " safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A network with its weights, on the CPU, in evaluation mode."""

    network: Any
    contract: NetworkContract
    architecture: str
    folder: Path
    info: dict[str, Any]
    """The content of `training_info.json`."""


def find_weights(given: Path) -> Path:
    """Return the safetensors file, from its own path or that of its folder; raises `ConfigError`."""
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
    with path.open("rb") as file:
        begin = file.read(9)
    # A safetensors file has the length of its header in the first eight bytes, then the brace of the header. These
    # eight bytes may look like a pickle, so the brace decides.
    if begin.startswith(PICKLE_BEGINNINGS) and begin[8:] != b"{":
        raise ConfigError(f"{path}: a pickle under another name, refused: {WHY_NOT_PICKLES}")
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: expected a .safetensors file")
    return path


def load_network(given: Path) -> TrainedNetwork:
    """Build the network that the folder describes and load its weights; raises `StreamdError`."""
    path = find_weights(given)
    load_file, build_network = _import_training()
    info = _read_json(path.with_name("training_info.json"))
    contract = _read_contract(path.parent, info)
    try:
        options = info["config"]
        architecture = str(options["architecture"])
        network = build_network(architecture, contract, **options["model"])
        network.load_state_dict(load_file(str(path)))
    except KeyError as exc:
        raise BuildError(f"{path.parent}: {exc} is missing in training_info.json") from exc
    except Exception as exc:  # The errors of safetensors and PyTorch have no common class.
        raise BuildError(f"{path}: not the weights that training_info.json describes: {exc}") from exc
    return TrainedNetwork(
        network=network.eval(), contract=contract, architecture=architecture, folder=path.parent, info=info
    )


def _read_contract(folder: Path, info: dict[str, Any]) -> NetworkContract:
    """Return the contract of a version's manifest; a run has none and was trained for the default contract.

    Its configuration says whether with a memory.
    """
    if not (folder / "config.json").is_file():
        options = info.get("config")
        has_memory = isinstance(options, dict) and options.get("memory")
        return NetworkContract(memory_length=MEMORY_LENGTH if has_memory else 0)
    try:
        return NetworkContract.from_manifest(_read_json(folder / "config.json"))
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
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
        content: dict[str, Any] = msgspec.json.decode(read_regular(path), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as exc:
        raise BuildError(f"{path}: {exc}; expected the file beside the weights that describes their network") from exc
    return content
