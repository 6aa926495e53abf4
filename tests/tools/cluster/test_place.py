"""Tests `streamd/tools/cluster/place.py`: flags beat variables, which beat the file of settings."""

from pathlib import Path

import pytest

from streamd.core.errors import ConfigError
from streamd.server.config import ClusterSection
from streamd.tools.cluster.place import PLACE_KEYS, find_cluster

SETTINGS = """
[cluster]
nats = "nats://file:1, nats://file:2"
cluster_name = "of-the-file"
nats_ca_file = "ca.pem"
shards = 8
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(SETTINGS)
    return path


def test_the_keys_are_those_of_the_daemon() -> None:
    assert set(PLACE_KEYS) <= set(ClusterSection.__struct_fields__)


def test_the_file_names_the_cluster_and_its_files_lie_beside_it(config: Path) -> None:
    place = find_cluster({}, config, {})
    assert place.urls == ("nats://file:1", "nats://file:2")
    assert place.name == "of-the-file"
    assert place.tls_ca == str(config.parent / "ca.pem")
    assert place.credentials == ""


def test_a_flag_beats_a_variable_which_beats_the_file(config: Path) -> None:
    variables = {"STREAMD_NATS": "nats://variable:1", "STREAMD_CLUSTER_NAME": "of-the-variable"}
    assert find_cluster({"nats": None}, config, variables).urls == ("nats://variable:1",)
    place = find_cluster({"nats": "nats://flag:1"}, config, variables)
    assert (place.urls, place.name) == (("nats://flag:1",), "of-the-variable")


def test_without_a_cluster_the_error_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give --cluster nats://HOST:4222 or --config FILE, or set STREAMD_NATS"):
        find_cluster({}, None, {})
    empty = tmp_path / "config.toml"
    empty.write_text("[server]\nport = 1\n")
    with pytest.raises(ConfigError, match="no cluster is named"):
        find_cluster({}, empty, {})


@pytest.mark.parametrize(
    ("text", "message"), [("[cluster", "cannot be read"), ("cluster = 3", "cluster is no section")]
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        find_cluster({}, path, {})


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the name of the cluster is 'a\.b', expected 1 to 64 letters"):
        find_cluster({"nats": "nats://x:1", "cluster_name": "a.b"}, None, {})


def test_a_password_is_not_shown() -> None:
    assert find_cluster({"nats": "nats://me:secret@x:1,nats://y:2"}, None, {}).shown == "x:1, nats://y:2"
