"""Tests `streamd/core/fleet/prefixes.py`: the prefixes of usual and of strange names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.fleet.prefixes import SEPARATORS, find_prefix


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("db-07", "db-"),
        ("machine-3-5", "machine-3-"),
        ("ip-10-2-3-4", "ip-10-2-3-"),
        ("db", "db"),
        ("rack_3:node", "rack_3:"),
        ("web01", "web"),
        ("localhost", "localhost"),
        ("1234", "1234"),
        ("db-", "db-"),
        ("a-b--", "a-"),
        ("---", "---"),
    ],
)
def test_the_prefix_of_a_name_ends_with_the_last_separator_or_before_the_digits(name: str, prefix: str) -> None:
    assert find_prefix(name) == prefix


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("web-01.dc1.example.com", "web-"),
        ("web01.example.com", "web"),
        ("web-a.example.com.", "web-"),
        ("db.example.com", "db"),
        ("web-01.dc1", "web-"),
        ("ip-10-2-3-4.ec2.internal", "ip-10-2-3-"),
        ("web-01:9100", "web-"),
        ("web-01.dc1.example.com:9100", "web-"),
    ],
)
def test_a_domain_and_a_port_are_not_of_the_host(name: str, prefix: str) -> None:
    assert find_prefix(name) == prefix


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("eu.west.web-1", "eu.west.web-"),
        ("10.2.3.4", "10.2.3."),
        ("10.2.3.4:9100", "10.2.3."),
        ("2001:db8::1", "2001:db8::"),
        ("cluster/node-1.pool", "cluster/node-1."),
        (".hidden", "."),
    ],
)
def test_a_path_or_an_address_is_the_host_as_a_whole(name: str, prefix: str) -> None:
    assert find_prefix(name) == prefix


@given(st.text(st.sampled_from("ab19-._:/é"), min_size=1, max_size=10))
def test_a_prefix_is_never_empty_and_begins_the_name(name: str) -> None:
    prefix = find_prefix(name)
    assert prefix
    assert name.startswith(prefix)
    rest = name[len(prefix) :].lstrip("0123456789")
    assert not rest or prefix[-1] in SEPARATORS or rest[0] in ".:", "whole labels, or all but their numbers"
