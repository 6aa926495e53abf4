"""Tests `streamd/core/cluster/shards.py`: the shard of a server never changes, and names of any kind are subjects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.cluster.shards import (
    STEP_PARTS,
    ClusterNames,
    find_shard,
    find_shards,
    find_step_part,
    make_server_token,
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=256)
hostile = st.text(st.sampled_from("ab.*> %\t\n\0ü😀"), min_size=1, max_size=8)


def test_the_shard_of_a_server_is_the_same_in_all_versions() -> None:
    # These are in the logs of clusters: they may not change.
    assert [find_shard(name, 32) for name in ("web-1", "web-2", "db.example.com", "ü")] == [1, 6, 23, 21]


def test_many_servers_are_spread_evenly() -> None:
    counts = np.bincount(find_shards([f"server-{number:05d}" for number in range(20_000)], 32), minlength=32)
    assert counts.min() > 0.85 * 625
    assert counts.max() < 1.15 * 625


def test_the_step_records_of_a_shard_have_its_servers_evenly() -> None:
    servers = [f"server-{number:05d}" for number in range(20_000)]
    of_a_shard = [find_step_part(server) for server in servers if find_shard(server, 8) == 3]
    assert np.bincount(of_a_shard, minlength=STEP_PARTS).min() > 0.75 * len(of_a_shard) / STEP_PARTS


@given(st.lists(names, max_size=5), st.integers(1, 1_024))
def test_the_array_form_is_the_same(servers: list[str], shards: int) -> None:
    assert find_shards(servers, shards).tolist() == [find_shard(server, shards) for server in servers]


@given(names | hostile)
def test_a_server_s_name_is_a_subject(server: str) -> None:
    tokens = make_server_token(server).split(".")
    assert all(tokens), "no token is empty"
    assert not any(token in ("*", ">") for token in tokens)
    assert not any(character.isspace() or ord(character) < 33 for token in tokens for character in token)
    assert len(tokens) == server.count(".") + 1


@given(hostile, hostile)
def test_two_servers_have_two_subjects(one: str, other: str) -> None:
    assert (make_server_token(one) == make_server_token(other)) == (one == other)


@pytest.mark.parametrize(
    ("server", "token"),
    [("web-1", "web-1"), ("a.b", "a.b"), (".", "%.%"), ("%", "%25"), ("*", "%2A"), ("a b>", "a%20b%3E")],
)
def test_usual_names_stay_readable(server: str, token: str) -> None:
    assert make_server_token(server) == token


def test_two_clusters_share_servers_of_nats_without_sharing_subjects() -> None:
    first, second = ClusterNames("streamd"), ClusterNames("lab")
    assert first.rows(3) == "streamd.streamd.rows.3"
    assert second.rows(3) == "streamd.lab.rows.3"
    assert first.server_forecasts("a.b") == "forecast.a.b"
    assert second.server_forecasts("a.b") == "lab.forecast.a.b"
