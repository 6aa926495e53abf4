"""Tests `benchmarks/overload/*`: the judgement, the ages, the frames of the load, and the attacks on a server."""

import asyncio
import contextlib
import struct
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest

from benchmarks.overload.__main__ import judge_loads
from benchmarks.overload.attacks import ATTACKS, Attacker, make_frame
from benchmarks.overload.fleet import FRAME_ROWS, AgeLog, Fleet
from benchmarks.overload.probe import ProbeResult, probe_health
from streamd.http.wire.bodies import decode_body
from streamd.http.wire.codecs import Encoding


def make_load(**changed: Any) -> dict[str, Any]:
    load = {"attacked": False, "goodput": 95.0, "age_p99_seconds": 1.9, "healthz_max_ms": 99.0, "healthz_errors": 0}
    return {**load, **changed}


def test_the_goals_are_relative_to_the_capacity_and_to_the_usual_load() -> None:
    usual = make_load(age_p99_seconds=1.0)
    assert judge_loads(100.0, [usual, make_load()]) == {"goodput": True, "age": True, "healthz": True}


@pytest.mark.parametrize(
    ("changed", "goal"),
    [
        ({"goodput": 89.0}, "goodput"),
        ({"age_p99_seconds": 2.1}, "age"),
        ({"age_p99_seconds": float("nan")}, "age"),
        ({"healthz_max_ms": 101.0}, "healthz"),
        ({"healthz_errors": 1}, "healthz"),
    ],
)
def test_each_missed_goal_is_seen_also_under_attack(changed: dict[str, Any], goal: str) -> None:
    loads = [make_load(age_p99_seconds=1.0), make_load(**changed), make_load(attacked=True, **changed)]
    missed = {name for name, is_met in judge_loads(100.0, loads).items() if not is_met}
    assert missed == {goal, f"under attack: {goal}"}


def test_percentiles_of_ages_and_answers() -> None:
    log = AgeLog(0.0, [np.arange(50.0), np.arange(50.0, 101.0)])
    assert log.percentile(0.5) == 50.0
    assert log.percentile(0.99) == 99.0
    assert np.isnan(AgeLog(0.0).percentile(0.99))
    assert ProbeResult([0.3, 0.1, 0.2]).percentile(1.0) == 0.3
    assert np.isnan(ProbeResult().percentile(0.5))


async def test_frames_of_the_load_are_rows_that_rise_and_forecasts_of_them_have_an_age() -> None:
    async with aiohttp.ClientSession() as session:
        fleet = Fleet(session, "", 200)
        servers = np.arange(70, 70 + FRAME_ROWS)
        for row in (1, 2):
            _, samples = decode_body(fleet._make_frame(servers), Encoding.MSGPACK)
            taken: list[Any] = [sample for _, sample in samples]
            assert [sample.server for sample in taken] == [f"server-{number:06d}" for number in servers]
            origins = [sample.time + 300 for sample in taken]
            assert (np.array(origins) - 300 == 1_700_000_100 + row * 300).all()
        names = [sample.server for sample in taken]
        frame = msgspec.msgpack.encode({"type": "forecasts", "servers": names, "origins": origins})
        numbers = fleet._take_forecasts(aiohttp.WSMessage(aiohttp.WSMsgType.BINARY, frame, None))
        assert numbers.tolist() == servers.tolist()
        assert fleet.log.delivered == FRAME_ROWS
        assert 0 <= fleet.log.percentile(1.0) < 60


def test_a_frame_may_announce_more_than_it_has() -> None:
    assert make_frame(b"abc") == b"\x81\x83\0\0\0\0abc"
    assert make_frame(b"abc", 200) == b"\x81\xff" + struct.pack(">Q", 200) + b"\0\0\0\0abc"


async def test_each_attack_reaches_a_server_and_ends_with_it() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            heads.append(await reader.read(200))
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        tasks = [asyncio.create_task(attack(Attacker(port, "X-Token: x\r\n"))) for attack, _ in ATTACKS]
        async with asyncio.timeout(10.0):
            while len(heads) < len(ATTACKS):
                await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert all(b"X-Token: x" in head for head in heads)


def test_a_server_that_is_not_there_is_no_answer() -> None:
    status, seconds = probe_health(1)
    assert status == 0
    assert seconds < 5
