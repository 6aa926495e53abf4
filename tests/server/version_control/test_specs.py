"""Tests `streamd/server/version_control/specs.py`: lanes are made only of the files that were checked."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streamd.core.errors import BackendUnavailableError, RepositoryError
from streamd.core.names import BACKENDS
from streamd.inference.api.backends import OPENERS
from streamd.inference.lane import Lane
from streamd.repository.plans import choose_plan
from streamd.server.config import Config, EngineSection
from streamd.server.version_control.specs import (
    Selection,
    check_same_contract,
    find_contract_differences,
    make_spec,
    open_version,
    select_versions,
)
from tests.support.made_versions import add_plan, digest, pin, tell
from tests.support.memory_version import compute_memory_forecast, make_memory_contract, make_memory_version
from tests.support.served_versions import CALENDAR, WINDOW
from tests.support.version_calls import (
    StartDaemon,
    predict,
    promote,
    read_serving,
    roll_back,
    start_candidate,
    start_ready,
)

SETTINGS = Config(engine=EngineSection(backend="onnxruntime-cpu", lanes=1, buckets=(1, 4)))


def replace_graph(root: Path, name: str) -> bytes:
    """Replace the graph of a version and its recorded hash by those of the other one; returns the old content."""
    (other,) = {CALENDAR, WINDOW} - {name}
    graph = root / name / "model.onnx"
    before = graph.read_bytes()
    graph.write_bytes((root / other / "model.onnx").read_bytes())
    pin(root / name, {"model.onnx": digest(graph)})
    return before


def hold_selection(root: Path, *named: str) -> Iterator[Selection]:
    selection = select_versions(msgspec.structs.replace(SETTINGS.engine, engines=str(root)), named)
    yield selection
    selection.release()


@pytest.mark.parametrize("named", [(WINDOW,), (WINDOW, CALENDAR), (CALENDAR, WINDOW)])
def test_a_lane_is_made_only_of_the_graph_that_was_checked(engines: Path, named: tuple[str, ...]) -> None:
    for selection in hold_selection(engines, *named):
        opened = open_version(selection.versions, SETTINGS)
        (lane,) = opened.lanes
        lane.inputs.encoder_cont[:] = 5.0
        answer = lane.run(1).copy()
        before = replace_graph(engines, WINDOW)
        refusal = rf"{WINDOW}/model\.onnx: changed since it was checked"
        with pytest.raises(BackendUnavailableError, match=refusal):
            opened.backend.make_lane(0)
        with pytest.raises(BackendUnavailableError, match=refusal):  # also when it falls back to another backend
            open_version(selection.versions, SETTINGS)
        np.testing.assert_array_equal(lane.run(1), answer, "the open lane still works")
        (engines / WINDOW / "model.onnx").write_bytes(before)
        again = opened.backend.make_lane(0)
        again.inputs.encoder_cont[:] = 5.0
        np.testing.assert_array_equal(again.run(1), answer, "one name has one answer")


def test_a_graph_in_a_lower_precision_is_compared_too(engines: Path) -> None:
    path = engines / WINDOW
    graph = path / "model_int8.onnx"
    graph.write_bytes((path / "model.onnx").read_bytes())
    tell(path, graphs={"int8": {"file": graph.name}}, validation={"int8": {"promotable": True}})
    pin(path, {graph.name: digest(graph)})
    settings = Config(engine=msgspec.structs.replace(SETTINGS.engine, precision="int8"))
    for selection in hold_selection(engines, WINDOW):
        opened = open_version(selection.versions, settings)
        assert opened.backend.precision == "int8"
        graph.write_bytes((engines / CALENDAR / "model.onnx").read_bytes())
        pin(path, {graph.name: digest(graph)})
        with pytest.raises(BackendUnavailableError, match=r"model_int8\.onnx: changed"):
            opened.backend.make_lane(1)


def test_a_rebuilt_plan_differs_from_that_of_the_checked_version(engines: Path) -> None:
    path = engines / WINDOW
    plan = add_plan(path, "fp32")
    for selection in hold_selection(engines, WINDOW):
        (version,) = selection.versions
        assert version.sha256[plan.name] == digest(plan)
        add_plan(path, "fp32", b"another plan")
        chosen = choose_plan(version, "auto", "NVIDIA H200", "9.0", "8.6.1")
        assert chosen.sha256 != version.sha256[plan.name], "an opener sees that it is another plan"


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_backend_of_the_settings_opens_lanes_or_is_refused_by_name(engines: Path, backend: str) -> None:
    settings = Config(engine=msgspec.structs.replace(SETTINGS.engine, backend=backend))
    for selection in hold_selection(engines, WINDOW):
        refusal, lanes = "", list[Lane]()
        try:
            lanes = open_version(selection.versions, settings).lanes
        except BackendUnavailableError as exc:
            refusal = str(exc)
        assert lanes or f"{backend}: " in refusal
        for lane in lanes:
            lane.close()


def test_the_library_tries_the_same_backends_in_the_same_order() -> None:
    assert tuple(OPENERS) == BACKENDS


def test_a_selection_of_a_damaged_version_is_refused(engines: Path) -> None:
    (engines / WINDOW / "conversion_info.json").write_text("{")
    with pytest.raises(RepositoryError, match="conversion_info"):
        select_versions(msgspec.structs.replace(SETTINGS.engine, engines=str(engines)), (WINDOW,))


# ---------------------------------------------------------------- memory
def test_versions_that_differ_in_their_memory_only_may_follow_each_other_and_serve_together(tmp_path: Path) -> None:
    contract = make_memory_contract()
    names = "plain_20260101_000000", "remembers_20260102_000000"
    make_memory_version(tmp_path, names[0], contract, memory=None)
    make_memory_version(tmp_path, names[1], contract)
    for selection in hold_selection(tmp_path, *names):
        plain, remembers = (version.contract for version in selection.versions)
        assert (plain.memory_length, remembers.memory_length) == (0, 168)
        for other in (plain, remembers, plain.with_daemon_memory()):
            check_same_contract(selection, other)
            assert find_contract_differences(remembers, other) == []
        assert find_contract_differences(replace(remembers, horizon=2), plain) == ["horizon"]
        spec = make_spec(selection, SETTINGS, open_version, lambda selection: None)
        assert spec.memory_length == 168
        (lane,) = open_version(selection.versions, SETTINGS).lanes
        assert lane.inputs.memory_cont is not None
        lane.inputs.memory_cont[:] = 1.0
        both = compute_memory_forecast(contract, np.zeros(3), np.ones((168, 3)))
        none = compute_memory_forecast(contract, np.zeros(3), np.zeros((168, 3)))
        np.testing.assert_allclose(lane.run(1)[0], (both + none) / 2, rtol=1e-6)
        lane.close()


# ---------------------------------------------------------------- one name, one network
def test_a_reload_does_not_take_another_network_under_the_same_name(
    start: StartDaemon, tmp_path: Path, engines: Path
) -> None:
    daemon = start_ready(start, tmp_path)
    replace_graph(engines, WINDOW)
    daemon.signal(signal.SIGHUP)
    assert f"{WINDOW}: its model.onnx changed since it was loaded" in daemon.wait_for("reload_failed")["error"]
    status, answer = promote(daemon, WINDOW)
    assert (status, answer["code"]) == (409, "reload_refused")
    assert "changed since it was loaded" in answer["message"]
    assert predict(daemon) == read_serving(daemon) == WINDOW, "the values are those of the window"
    assert daemon.get("/v1/status")[1]["reload"]["state"] == "failed"
    assert promote(daemon, CALENDAR)[0] == 200


def test_the_files_of_a_warm_version_or_candidate_are_compared_before_it_serves(
    start: StartDaemon, tmp_path: Path, engines: Path
) -> None:
    daemon = start_ready(start, tmp_path)
    for version in (CALENDAR, WINDOW):
        assert promote(daemon, version)[0] == 200
    before = replace_graph(engines, CALENDAR)
    for _ in range(2):
        status, answer = roll_back(daemon)
        assert (status, answer["code"]) == (409, "reload_refused")
        assert f"{CALENDAR}: its model.onnx changed" in answer["message"]
        assert predict(daemon) == WINDOW
    record = json.loads((engines / "promoted.json").read_text())
    assert record["current"] == WINDOW
    (engines / CALENDAR / "model.onnx").write_bytes(before)
    pin(engines / CALENDAR, {"model.onnx": digest(engines / CALENDAR / "model.onnx")})
    assert roll_back(daemon)[0] == 200
    assert predict(daemon) == CALENDAR
    # 2. A candidate that is promoted.
    daemon.end()
    again = start_ready(start, tmp_path)
    assert start_candidate(again, WINDOW, shadow=True)[0] == 200
    replace_graph(engines, WINDOW)
    status, answer = promote(again, WINDOW)
    assert (status, answer["code"]) == (409, "reload_refused")
    assert again.get("/v1/status")[1]["candidate"]["version"] == WINDOW, "it is still the candidate"
