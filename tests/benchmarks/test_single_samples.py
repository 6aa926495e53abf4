"""Tests `benchmarks/single_samples.py`: frames that a daemon reads, and acks that are counted however they are cut."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import single_samples
from benchmarks.single_samples import SERVERS_A_CONNECTION, Agent


@pytest.fixture
def agent_and_daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Agent, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    monkeypatch.setattr(single_samples, "connect", lambda port: ours)
    agent = Agent(1, "a")
    assert theirs.recv(65_536).startswith(b"GET /v1/ingest HTTP/1.1\r\n")
    with ours, theirs:
        yield agent, theirs


def test_frames_are_masked_samples_of_servers_in_turn(agent_and_daemon: tuple[Agent, socket.socket]) -> None:
    agent, daemon = agent_and_daemon
    agent.send(SERVERS_A_CONNECTION + 1)
    data = b""
    samples: list[Any] = []
    while len(samples) <= SERVERS_A_CONNECTION:
        data += daemon.recv(65_536)
        while len(data) > 8 and len(data) >= 8 + (size := int.from_bytes(data[2:4], "big")):
            assert data[:2] == b"\x81\xfe", "a final text frame with a mask and a length of two bytes"
            assert data[4:8] == bytes(4)
            (sample,) = json.loads(data[8 : 8 + size])["samples"]
            samples.append(sample)
            data = data[8 + size :]
    first, again = samples[0], samples[SERVERS_A_CONNECTION]
    assert len({sample["server"] for sample in samples}) == SERVERS_A_CONNECTION
    assert again["server"] == first["server"]
    assert again["time"] == first["time"] + 300
    assert len(first["values"]) == 14


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_acks_are_counted_however_they_are_cut(size: int, agent_and_daemon: tuple[Agent, socket.socket]) -> None:
    agent, daemon = agent_and_daemon
    ack = b'\x81\x1b{"type":"ack","accepted":1}'
    data = ack * 9
    for begin in range(0, len(data), size):
        daemon.sendall(data[begin : begin + size])
        agent.read()
    assert agent.acked == 9


def test_a_rejected_sample_ends_the_measurement(agent_and_daemon: tuple[Agent, socket.socket]) -> None:
    agent, daemon = agent_and_daemon
    daemon.sendall(b'\x81\x1b{"accepted":0,"rejected":1}')
    with pytest.raises(RuntimeError, match="rejected"):
        agent.read()
