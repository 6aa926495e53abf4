"""Tests `benchmarks/fuzzing/*`: own formats for a moment, every route of a daemon, and that defects are found."""

import io
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from benchmarks.fuzzing import surface
from benchmarks.fuzzing.__main__ import list_surfaces
from benchmarks.fuzzing.checks import Finding
from benchmarks.fuzzing.mutations import BodyShape
from benchmarks.fuzzing.own_targets import CONTRACT, OWN_TARGETS
from benchmarks.fuzzing.plain_requests import MSGPACK, PlainRequestMaker, list_predict_bodies
from benchmarks.fuzzing.requests import ROUTES, RequestMaker, list_seed_bodies
from benchmarks.fuzzing.session import FuzzSession
from benchmarks.fuzzing.surface import SurfaceSession
from benchmarks.fuzzing.targets import FuzzTarget, Sink
from streamd.core.errors import MAX_INPUT_ERROR_CHARACTERS, InvalidInputError, MalformedError
from streamd.http.direct.heads import PlainHeads

BODIES = 25


def run_bodies(target: FuzzTarget, bodies: int = BODIES) -> list[dict[str, Any]]:
    """Return the log of so many mutations of a target's seeds, which come first."""
    log, random = io.StringIO(), Random(14)
    session = FuzzSession(target, 14, 1.0, log)
    for body in list(session.corpus):
        session.take_body(body)
    for _ in range(bodies):
        session.take_body(session.mutate(random))
    return [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.mark.parametrize("target", OWN_TARGETS, ids=lambda target: str(target.name))
def test_damaged_bodies_and_files_of_our_own_formats_are_refused_by_name(target: FuzzTarget) -> None:
    assert [entry["message"] for entry in run_bodies(target) if entry["event"] == "finding"] == []


def _fail(body: bytes, sink: Sink) -> Iterator[None]:
    raise KeyError("a defect")


def _refuse(body: bytes, sink: Sink) -> Iterator[None]:
    raise MalformedError("x" * 5_000)


def _raise_other(body: bytes, sink: Sink) -> Iterator[None]:
    raise OSError("not one of its refusals")


def _break_rule(body: bytes, sink: Sink) -> Iterator[None]:
    raise Finding("a rule was broken")


@pytest.mark.parametrize("decode", [_fail, _raise_other, _break_rule])
def test_a_decoder_with_a_defect_is_found(decode: Any) -> None:
    target = FuzzTarget(name="broken", shape=BodyShape.BYTES, decode=decode, list_seeds=lambda: [b"a"])
    assert any(entry["event"] == "finding" for entry in run_bodies(target, 1))


def test_messages_about_input_are_bounded_whatever_the_input_is() -> None:
    error = InvalidInputError("x" * 100_000)
    assert len(str(error)) <= MAX_INPUT_ERROR_CHARACTERS + 3
    target = FuzzTarget(name="long", shape=BodyShape.BYTES, decode=_refuse, list_seeds=lambda: [b"a"])
    assert not any(entry["event"] == "finding" for entry in run_bodies(target, 1))


def test_plain_requests_are_right_or_nearly_so_and_a_seed_makes_the_same() -> None:
    bodies = list_predict_bodies(CONTRACT)
    first, second = (PlainRequestMaker(bodies, Random(3), ["Authorization: Bearer x", "X: 1"]) for _ in range(2))
    made = [first.make_requests() for _ in range(300)]
    assert made[:50] == [second.make_requests() for _ in range(50)]
    heads = PlainHeads(["/v1/predict"], [MSGPACK], 2**20)
    plain = sum(heads.find(each) is not None for each in made)
    assert 60 < plain < 240
    assert all(b"".join(first.cut(each)) == each for each in made)


def test_every_route_is_requested_and_a_seed_makes_the_same_requests() -> None:
    bodies = list_seed_bodies()
    first, second = (RequestMaker(bodies, Random(3)) for _ in range(2))
    made = [first.make_request() for _ in range(700)]
    assert made[:50] == [second.make_request() for _ in range(50)]
    for method, path in ROUTES:
        begin = f"{method} {path.partition('{')[0]}".encode()
        assert any(each.startswith(begin) for each in made), f"{method} {path} is never requested"
    assert first.make_frames() != first.make_frames()


def test_a_daemon_under_damaged_requests_and_frames_has_no_defect() -> None:
    log = io.StringIO()
    session = SurfaceSession(14, 0.02, log)
    session.has_done_enough = lambda: session.inputs > 20 and {"101", "400"} <= session.answers.keys()
    session.run()
    assert [entry for entry in map(json.loads, log.getvalue().splitlines()) if entry["event"] == "finding"] == []
    assert session.inputs > 20
    assert session.answers["101"]
    assert session.answers["400"]


def test_a_defect_in_the_log_of_the_daemon_is_found_once() -> None:
    log = io.StringIO()
    session = SurfaceSession(14, 0.02, log)
    session.daemon.log.write_bytes(b'{"event": "ready"}\nTraceback (most recent call last):\n  a line\n')
    session._read_daemon_log()
    session._take_answer(b'HTTP/1.1 500 x\r\n\r\n{"code":"internal"}')
    (found,) = (entry for entry in map(json.loads, log.getvalue().splitlines()) if entry["event"] == "finding")
    assert "a line" in found["log"]
    assert session.has_finding
    assert surface.DEFECTS.search(b'{"event": "ready"}') is None


def test_surfaces_have_names_of_their_own() -> None:
    assert list_surfaces(3) == ["surface", "surface-2", "surface-3"]
