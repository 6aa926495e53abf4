"""Tests `streamd/tools/networks/weights.py`: a folder's weights make the network that the folder describes."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from streamd.core.errors import BuildError, ConfigError  # noqa: E402
from streamd.tools.networks.contract import NetworkContract  # noqa: E402
from streamd.tools.networks.registry import build_network  # noqa: E402
from streamd.tools.networks.weights import load_network  # noqa: E402

OPTIONS = {"width": 16, "layers": 1, "heads": 2}
CONFIG = {"architecture": "patch_forecaster", "model": OPTIONS, "memory": True}


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Return a network with a memory, and write the folder of its run."""
    network = build_network("patch_forecaster", NetworkContract(memory_length=168), **OPTIONS)
    network.quantiles.widening.factors.fill_(1.25)
    safetensors.save_file(network.state_dict(), str(tmp_path / "weights.safetensors"))
    describe(tmp_path, CONFIG)
    return network


def describe(folder: Path, config: Any) -> None:
    (folder / "training_info.json").write_text(json.dumps({"config": config, "seed": 1}))


def test_a_run_has_its_network_with_all_weights_in_evaluation_mode(saved: Any, tmp_path: Path) -> None:
    found = load_network(tmp_path)
    assert (found.architecture, found.contract.memory_length, found.info["seed"]) == ("patch_forecaster", 168, 1)
    assert not found.network.training
    expected = saved.state_dict()
    assert all(torch.equal(each, expected[name]) for name, each in found.network.state_dict().items())
    assert load_network(tmp_path / "weights.safetensors").folder == tmp_path


def test_a_version_has_the_contract_of_its_manifest(tmp_path: Path) -> None:
    contract = NetworkContract(memory_length=168, quantiles=(0.1, 0.5, 0.9), servers=4)
    network = build_network("patch_forecaster", contract, **OPTIONS)
    safetensors.save_file(network.state_dict(), str(tmp_path / "weights.safetensors"))
    describe(tmp_path, {**CONFIG, "memory": False})
    names = ("features", "targets", "quantiles", "context_length", "horizon", "step_seconds")
    manifest = {name: getattr(contract, name) for name in names}
    manifest |= {"memory": {"length": 168, "step_seconds": 3600}, "categorical_cardinalities": {"server_id": 4}}
    (tmp_path / "config.json").write_text(json.dumps(manifest))
    assert load_network(tmp_path).contract == contract
    (tmp_path / "config.json").write_text(json.dumps({**manifest, "memory": 168}))
    with pytest.raises(BuildError, match=r"config\.json"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**CONFIG, "memory": False}, "not the weights that training_info.json describes"),
        ({**CONFIG, "model": {**OPTIONS, "width": 32}}, "not the weights that training_info.json describes"),
        ({**CONFIG, "architecture": "lstm"}, "'lstm': expected one of"),
        ({"model": OPTIONS}, "'architecture' is missing in training_info.json"),
        (5, "not the weights that training_info.json describes"),
    ],
)
def test_a_folder_that_describes_another_network_is_refused(
    saved: Any, tmp_path: Path, config: Any, message: str
) -> None:
    describe(tmp_path, config)
    with pytest.raises(BuildError, match=message):
        load_network(tmp_path)


def test_weights_that_are_cut_off_are_refused(saved: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BuildError, match="not the weights"):
        load_network(tmp_path)


def test_a_pickle_is_refused_by_name_and_by_content(saved: Any, tmp_path: Path) -> None:
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match=r"weights\.pt: refused: a PyTorch pickle runs code"):
        load_network(tmp_path / "weights.pt")
    (tmp_path / "weights.pt").rename(tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match="a pickle under another name, refused"):
        load_network(tmp_path)
