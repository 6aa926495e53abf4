"""Tests `streamd/tools/networks/contract.py`: it is the daemon's contract, with defaults, and manifests are read."""

import json
from pathlib import Path

import pytest

from streamd.core.contract import ModelContract
from streamd.repository.manifest import read_manifest
from streamd.tools.networks.contract import INPUT_NAMES, NetworkContract

ENGINES = Path(__file__).resolve().parents[3] / "engines"
MANIFESTS = sorted(ENGINES.glob("[!.]*/config.json"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_a_shipped_manifest_gives_the_daemon_and_the_networks_the_same_contract(path: Path) -> None:
    daemon = read_manifest(path).make_contract()
    network = NetworkContract.from_manifest(json.loads(path.read_text()))
    assert network == NetworkContract(memory_length=daemon.memory_length)
    for name in ("features", "targets", "quantiles", "context_length", "horizon", "step_seconds", "units"):
        assert getattr(network, name) == getattr(daemon, name)
    assert network.input_shapes == daemon.input_shapes


def test_a_network_contract_is_a_model_contract_and_names_its_inputs() -> None:
    contract = NetworkContract()
    assert isinstance(contract, ModelContract)
    assert tuple(contract.input_shapes) == INPUT_NAMES
    assert (contract.servers, contract.statuses) == (1, 16)


def test_quantiles_without_the_median_are_refused() -> None:
    with pytest.raises(ValueError, match=r"quantiles is \[0\.1, 0\.9\], expected 0\.5 among them"):
        NetworkContract(quantiles=(0.1, 0.9))
    with pytest.raises(ValueError, match=r"quantiles is .* expected rising numbers"):
        NetworkContract(quantiles=(0.9, 0.5, 0.1))
