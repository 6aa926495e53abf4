"""Tests `streamd/server/cluster/connecting.py`: the name of a node without one in its settings."""

import pytest

from streamd.core.errors import ConfigError
from streamd.server.cluster.connecting import make_node_name


@pytest.mark.parametrize(("host", "name"), [("web-1", "web-1"), ("web-1.example.org", "web-1-example-org")])
def test_the_name_of_a_node_is_by_default_that_of_the_host(host: str, name: str) -> None:
    assert make_node_name(host) == name


@pytest.mark.parametrize("host", ["", "wéb", "x" * 65])
def test_a_host_whose_name_cannot_be_a_node_s_needs_one(host: str) -> None:
    with pytest.raises(ConfigError, match=r"\[cluster\] node: is empty"):
        make_node_name(host)
