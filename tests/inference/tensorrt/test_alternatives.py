"""Tests `streamd/inference/tensorrt`.

Files of several alternatives: how one file holds them, which of them runs a batch, and what they must share.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.errors import BackendUnavailableError, BatchFailedError, LaneLostError
from streamd.inference import cuda
from streamd.inference.runner import TensorSpec
from streamd.inference.tensorrt.engine import Plan, SharedEngine, set_scratch
from streamd.inference.tensorrt.lane import TensorRtBackend, TensorRtLane
from streamd.inference.tensorrt.library import load_tensorrt
from streamd.inference.tensorrt.plan_file import (
    ALTERNATIVES_MAGIC,
    MAX_ALTERNATIVES,
    STAGES_MAGIC,
    pack_alternatives,
    pack_stages,
    unpack_plans,
    unpack_stages,
)
from streamd.inference.tensorrt.runner import TensorRtRunner, find_plan_buckets
from streamd.inference.tensorrt.tensors import NetworkTensors, StageTensors, join_stages, merge_alternatives
from tests.support.fake_tensorrt_runtime import FakeTensorRt
from tests.support.staged_plans import (
    BUCKETS,
    CONTRACT,
    MAGICS,
    SHAPES,
    WINDOW,
    Said,
    altered,
    expect_refused_wherever_cut,
    expect_right,
    three_stages,
)


# ---------------------------------------------------------------- the file
def is_plan(content: bytes) -> bool:
    """Whether content on its own is taken for one plan."""
    return not any(magic.startswith(content[: len(magic)]) for magic in MAGICS)


plan_bytes = st.binary(min_size=1, max_size=30).filter(is_plan)
alternatives_of_stages = st.lists(
    st.lists(plan_bytes, min_size=1, max_size=4), min_size=2, max_size=MAX_ALTERNATIVES
)  # fmt: skip


def pack(alternatives: list[list[bytes]]) -> bytes:
    return pack_alternatives([pack_stages(stages) for stages in alternatives])


def unpack(content: bytes | bytearray) -> list[list[bytes]]:
    return [[bytes(stage) for stage in stages] for stages in unpack_plans(content)]


@given(alternatives_of_stages)
def test_what_is_packed_is_unpacked_each_stage_at_a_multiple_of_eight(given: list[list[bytes]]) -> None:
    first, second, *rest = (pack_stages(stages) for stages in given)
    content = pack_alternatives([first, bytearray(second), *(memoryview(each) for each in rest)])
    assert unpack(content) == given
    base = np.frombuffer(content, np.uint8).ctypes.data
    places = {np.frombuffer(stage, np.uint8).ctypes.data - base for stages in unpack_plans(content) for stage in stages}
    assert {place % 8 for place in places} == {0}


@given(st.lists(plan_bytes, min_size=1, max_size=4))
def test_one_alternative_is_its_own_file(stages: list[bytes]) -> None:
    content = pack_stages(stages)
    assert pack_alternatives([content]) == content
    assert unpack(content) == [stages]
    assert tuple(unpack_plans(content)[0]) == unpack_stages(content)


@settings(max_examples=15)  # each is cut at every byte
@given(alternatives_of_stages)
def test_a_file_cut_anywhere_is_refused_and_so_is_a_longer_one(given: list[list[bytes]]) -> None:
    expect_refused_wherever_cut(pack(given), unpack_plans)


@given(alternatives_of_stages, st.data())
def test_a_file_with_other_bytes_is_read_or_refused_and_never_more(
    given: list[list[bytes]], data: st.DataObject
) -> None:
    content = altered(pack(given), data)
    try:
        found = unpack(content)
    except BackendUnavailableError:
        return
    assert all(stage for stages in found for stage in stages)
    assert pack(found) == content


def header(count: int, *lengths: int) -> bytes:
    sizes = b"".join(length.to_bytes(8, "little") for length in lengths)
    return ALTERNATIVES_MAGIC + count.to_bytes(4, "little") + sizes


def two(second: bytes) -> bytes:
    """A file of two alternatives, whatever the second is."""
    return header(2, 1, len(second)) + bytes(4) + b"a" + bytes(7) + second


STAGES = pack_stages([b"a", b"b"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (header(0), "^0 plans, expected 2 to 16"),
        (header(1, 1) + bytes(5), "^1 plans, expected 2 to 16"),
        (header(17, *[1] * 17), "^17 plans, expected 2 to 16"),
        (header(2, 3), "^28 bytes, expected at least 36 bytes for 2 plans"),
        (header(2, 3, 0) + bytes(7), "^plan 2 of 2 is empty, expected a plan"),
        (header(2, 1, 2**64 - 1), r"^36 bytes for plans of \[1, 18446744073709551615\] bytes, expected 1844"),
        (header(2, 1, 1) + b"\0\0\0\1a" + bytes(7) + b"b", "^bytes 36 to 40 lie between plans, expected zeros"),
        (b"", "^0 bytes, expected a plan"),
        (two(STAGES[:-1]), "^plan 2 of 2: 48 bytes for stages of .*, expected 49"),
        (two(b"stream"), "^plan 2 of 2: 6 bytes, expected a plan"),
        (two(pack_alternatives([b"a", b"b"])), "^plan 2 of 2: 49 bytes that begin as several plans do, expected one"),
        (two(STAGES_MAGIC), "^plan 2 of 2: 16 bytes, expected a plan, or at least 20 bytes for stages"),
        (STAGES[:-1], "^48 bytes for stages of"),
    ],
)
def test_a_file_that_is_not_as_it_says_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(BackendUnavailableError, match=told):
        unpack_plans(content)


@pytest.mark.parametrize("given", [[], [b""], [b"a", b""], [b"a"] * 17])
def test_no_file_is_made_of_too_few_too_many_or_nothing(given: list[bytes]) -> None:
    with pytest.raises(ValueError, match="expected 1 to 16 plans, none of them empty"):
        pack_alternatives(given)


@pytest.mark.parametrize("refused", [pack_alternatives([b"a", b"b"]), STAGES[:-1], b"stream"])
def test_no_file_is_made_that_would_be_refused(refused: bytes) -> None:
    with pytest.raises(ValueError, match=r"plan 1 of 1: .*expected"):
        pack_alternatives([refused])
    with pytest.raises(ValueError, match=r"plan 2 of 2: .*expected"):
        pack_alternatives([b"a", refused])


# ---------------------------------------------------------------- running
def one(name: str, *profiles: int | list[int], **more: Any) -> list[Said]:
    """An alternative of one plan; a number is a static profile."""
    return [{"name": name, "profiles": [[each] * 3 if isinstance(each, int) else each for each in profiles], **more}]


def staged(name: str, *buckets: int) -> list[Said]:
    stages = three_stages()
    for stage in stages:
        stage.update(name=f"{name} {stage['name']}", profiles=[[bucket] * 3 for bucket in buckets])
    return stages


def make_plan(folder: Path, *alternatives: list[Said]) -> Plan:
    path = folder / "model_fp16.engine"
    path.write_bytes(pack([[json.dumps(stage).encode() for stage in stages] for stages in alternatives]))
    return Plan(path, "fp16")


def make_lane(folder: Path, *alternatives: list[Said], **more: Any) -> TensorRtLane:
    return TensorRtBackend(make_plan(folder, *alternatives), CONTRACT, BUCKETS, **more).make_lane(0)


def expect_refused(library: FakeTensorRt, folder: Path, told: str, *alternatives: list[Said]) -> None:
    with pytest.raises(BackendUnavailableError, match=told):
        make_lane(folder, *alternatives)
    assert cuda.count_live() == {}
    assert library.cuda.left == 0


def expect_ran(library: FakeTensorRt, lane: TensorRtLane, by_count: dict[int, list[str]]) -> None:
    """Right forecasts, each batch size by these engines in this order."""
    for count, names in by_count.items():
        del library.ran[:]
        expect_right(lane, count, count)
        assert library.ran == names, f"a batch of {count}"


def test_each_bucket_runs_in_the_alternative_that_has_it(library: FakeTensorRt, tmp_path: Path) -> None:
    lane = make_lane(tmp_path, one("large", 8), one("small", 1, 4))
    assert lane.describe() == {"graphs": {"1": "captured", "4": "captured", "8": "captured"}}
    assert cuda.count_live() == {
        "engines": 2, "contexts": 3, "streams": 1, "events": 1, "graphs": 3,
        "host_buffers": len(SHAPES) + 1, "device_buffers": len(SHAPES) + 2,
    }  # fmt: skip
    expect_ran(library, lane, {count: ["small" if count <= 4 else "large"] for count in range(1, 9)})
    lane.close()
    lane.close()
    assert cuda.count_live() == {}
    assert library.cuda.left == 0
    assert sorted(library.gone[:2]) == ["large", "small"]
    assert library.gone[2:] == ["runtime"]


def test_alternatives_of_three_stages_run_their_own_in_order(library: FakeTensorRt, tmp_path: Path) -> None:
    lane = make_lane(tmp_path, staged("small", 1, 4), staged("large", 8))
    live = cuda.count_live()
    assert (live["engines"], live["contexts"]) == (6, 9)
    assert live["device_buffers"] == len(SHAPES) + 4, "the buffers are there once"
    small, large = ([f"{name} {part}" for part in ("scaler", "core", "restorer")] for name in ("small", "large"))
    expect_ran(library, lane, {1: small, 3: small, 8: large, 2: small, 5: large})
    lane.close()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_narrowest_profile_wins_wherever_it_stands(
    library: FakeTensorRt, tmp_path: Path, order: tuple[int, ...]
) -> None:
    given = [one("static", 4), one("wide", [1, 4, 64]), one("narrow", [1, 4, 8], [1, 4, 128])]
    lane = make_lane(tmp_path, *(given[index] for index in order))
    assert [how == "captured" for how in lane.describe()["graphs"].values()] == [False, True, False]
    expect_ran(library, lane, {1: ["narrow"], 3: ["static"], 7: ["narrow"]})
    lane.close()


@pytest.mark.parametrize("turned", [False, True])
def test_an_alternative_is_as_wide_as_its_widest_stage(library: FakeTensorRt, tmp_path: Path, turned: bool) -> None:
    mixed, even = staged("mixed", *BUCKETS), staged("even", *BUCKETS)
    mixed[2]["profiles"] = [[1, 4, 64]]
    for stage in even:
        stage["profiles"] = [[1, 4, 8]]
    lane = make_lane(tmp_path, *([even, mixed] if turned else [mixed, even]))
    expect_ran(library, lane, {3: ["even scaler", "even core", "even restorer"]})
    lane.close()


def test_of_equal_alternatives_the_first_runs(library: FakeTensorRt, tmp_path: Path) -> None:
    lane = make_lane(tmp_path, one("first", *BUCKETS), one("second", *BUCKETS))
    expect_ran(library, lane, {1: ["first"], 8: ["first"]})
    lane.close()


def test_a_bucket_that_no_alternative_takes_in_all_its_stages_is_refused(library: FakeTensorRt, tmp_path: Path) -> None:
    told = r"model_fp16.engine: no profile takes a batch of 8$"
    expect_refused(library, tmp_path, told, one("small", 1), one("middle", 4))
    half = staged("large", 8)
    half[2]["profiles"] = [[4, 4, 4]]
    expect_refused(library, tmp_path, told, staged("small", 1, 4), half)


def test_all_alternatives_share_one_scratch_block_as_large_as_the_largest_needs(
    library: FakeTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: set[tuple[int, int]] = set()

    def note(context: Any, pointer: int, nbytes: int) -> None:
        told.add((pointer, nbytes))
        set_scratch(context, pointer, nbytes)

    monkeypatch.setattr("streamd.inference.tensorrt.executor.set_scratch", note)
    lane = make_lane(tmp_path, one("small", 1, 4, scratch=512), one("large", 8, scratch=65536))
    assert [nbytes for _, nbytes in told] == [65536]
    lane.close()


def test_lanes_share_the_engines_of_all_alternatives(library: FakeTensorRt, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, one("small", 1, 4), one("large", 8))
    backend = TensorRtBackend(Plan(plan.path, "fp16", tmp_path / "lean.so"), CONTRACT, BUCKETS)
    lanes = [backend.make_lane(index) for index in range(2)]
    assert library.loaded == 2
    lanes[0].close()
    assert (cuda.count_live()["engines"], cuda.count_live()["contexts"]) == (2, 3)
    expect_right(lanes[1], 6, 6)
    lanes[1].close()
    assert library.gone[2:] == ["lean runtime", "runtime"]
    lane = backend.make_lane(0)
    assert library.loaded == 4
    lane.close()


def test_a_stage_that_fails_is_told_with_its_alternative(library: FakeTensorRt, tmp_path: Path) -> None:
    lane = make_lane(tmp_path, staged("small", 1, 4), staged("large", 8), graphs=False)
    library.refusals.append("no memory for that")
    with pytest.raises(BatchFailedError, match=r"a batch of 8 \(plan 2 of 2, stage 1 of 3\): no memory for that"):
        lane.run(7)
    expect_right(lane, 7, 7)
    lane.close()


def test_any_network_s_runner_takes_what_some_alternative_takes(library: FakeTensorRt, tmp_path: Path) -> None:
    half = staged("half", 16)
    half[2]["profiles"] = [[32, 32, 32]]
    plan = make_plan(tmp_path, staged("large", 8, 64), half, staged("small", 1, 4))
    engine = SharedEngine(load_tensorrt(), plan, 0)
    assert find_plan_buckets(engine, None) == (1, 4, 8, 64)
    assert find_plan_buckets(engine, (4, 8)) == (4, 8)
    with pytest.raises(BackendUnavailableError, match=r"takes a batch of \[16, 32\], expected some of \(1, 4, 8, 64"):
        find_plan_buckets(engine, (8, 16, 32))
    runner = TensorRtRunner("cuda:0/0", engine, (4, 8))
    assert {spec.name for spec in runner.inputs} == set(SHAPES)
    rows = {spec.name: np.ones((7, *spec.make_batch_shape(1)[1:]), spec.dtype) for spec in runner.inputs}
    assert list(runner.run(rows)) == ["predictions"]
    assert library.ran[-3:] == ["large scaler", "large core", "large restorer"]
    runner.close()


def test_on_a_broken_device_no_alternative_is_destroyed(library: FakeTensorRt, tmp_path: Path, kept: list[Any]) -> None:
    lane = make_lane(tmp_path, staged("small", 1, 4), staged("large", 8))
    library.cuda.broken.add(0)
    with pytest.raises(LaneLostError):
        lane.check()
    lane.close()
    assert len(kept) == 9 + 6 + 1, "a context a bucket and stage, the engines, the runtime"
    assert all(hasattr(each, "__dict__") for each in kept), "none of them a tuple"
    assert cuda.count_live() == {}
    assert library.gone == []


# ---------------------------------------------------------------- what does not load
@pytest.mark.parametrize(
    ("stages", "told"), [(1, "cannot load plan 2 of 2 on"), (3, "cannot load plan 2 of 2, stage 2 of 3 on")]
)
def test_an_alternative_that_does_not_load_is_named_and_all_before_it_is_let_go(
    library: FakeTensorRt, tmp_path: Path, stages: int, told: str
) -> None:
    plan = make_plan(tmp_path, one("small", 1, 4), one("large", 8))
    first, (second,) = unpack(plan.path.read_bytes())
    plan.path.write_bytes(pack([first, [second, b"no plan", second] if stages == 3 else [b"no plan"]]))
    backend = TensorRtBackend(Plan(plan.path, "fp16", tmp_path / "lean.so"), CONTRACT, BUCKETS)
    with pytest.raises(BackendUnavailableError, match=rf"model_fp16.engine.*{told} .*magic tag.*engine build"):
        backend.make_lane(0)
    engines = ["small", "large"] if stages == 3 else ["small"]
    assert sorted(library.gone[: len(engines)]) == sorted(engines)
    assert library.gone[len(engines) :] == ["lean runtime", "runtime"]
    assert cuda.count_live() == {}
    assert library.cuda.left == 0
    make_plan(tmp_path, one("small", 1, 4), one("large", 8))
    lane = backend.make_lane(0)
    expect_right(lane, 5, 5)
    lane.close()


def test_a_truncated_file_is_named_with_the_way_out(library: FakeTensorRt, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, one("small", 1, 4), one("large", 8))
    plan.path.write_bytes(plan.path.read_bytes()[:-1])
    with pytest.raises(BackendUnavailableError, match=r"model_fp16.engine: \d+ bytes for plans of .*engine build"):
        TensorRtBackend(plan, CONTRACT, BUCKETS).make_lane(0)
    assert library.loaded == 0


def test_a_context_that_cannot_be_made_is_told_with_its_alternative(library: FakeTensorRt, tmp_path: Path) -> None:
    library.without_context = "large core"
    told = r"no context \(plan 2 of 2, stage 2 of 3\) for a batch of 8: no resources for a context"
    expect_refused(library, tmp_path, told, staged("small", 1, 4), staged("large", 8))


@pytest.mark.parametrize("place", range(1, len(SHAPES) + 3))
def test_wherever_the_device_s_memory_ends_nothing_is_left(library: FakeTensorRt, tmp_path: Path, place: int) -> None:
    library.cuda.fail("cudaMalloc", *[0] * (place - 1), 2)
    expect_refused(library, tmp_path, "cudaErrorMemoryAllocation", one("small", 1, 4), one("large", 8))


# ---------------------------------------------------------------- what they must share
FORECAST = CONTRACT.output_shape
OTHER = [FORECAST[0] + 1, *FORECAST[1:]]


def test_an_output_of_another_shape_or_name_is_refused(library: FakeTensorRt, tmp_path: Path) -> None:
    small = one("small", 1, 4)
    told = r"'predictions': plan 2 of 2 has it as \(batch, 5, 2, 3\) float32, but the plans before it have it as"
    expect_refused(library, tmp_path, told, small, one("large", 8, output=OTHER))
    gives = {"forecasts": ["float32", FORECAST, "forecast encoder_cont"]}
    told = r"plan 2 of 3 has outputs \['forecasts'\], expected \['predictions'\] as plan 1 has"
    expect_refused(library, tmp_path, told, small, one("large", 8, gives=gives), one("rest", 2))


def test_other_inputs_or_intermediates_are_refused(library: FakeTensorRt, tmp_path: Path) -> None:
    large = staged("large", 8)
    large[2]["reads"]["extra"] = ["float32", [5]]
    told = r"plan 2 of 2 has inputs \[.*'extra'.*\], expected \["
    expect_refused(library, tmp_path, told, staged("small", 1, 4), large)
    told = r"plan 2 of 2 has intermediates \[\], expected \['middle', 'scaled'\] as plan 1 has"
    expect_refused(library, tmp_path, told, staged("small", 1, 4), one("large", 8))
    large = staged("large", 8)
    half = ["float16", WINDOW]
    large[1]["gives"]["middle"][:2], large[2]["reads"]["middle"] = half, half
    told = r"'middle': plan 2 of 2 has it as \(batch, .*\) float16, but the plans before it have it as .* float32"
    expect_refused(library, tmp_path, told, staged("small", 1, 4), large)


def test_an_alternative_whose_stages_do_not_fit_together_is_named(library: FakeTensorRt, tmp_path: Path) -> None:
    large = staged("large", 8)
    large[1]["reads"] = {}
    expect_refused(library, tmp_path, "plan 2 of 2: stage 2 of 3 reads no tensor", staged("small", 1, 4), large)


@pytest.mark.parametrize("opened", [(0,), (1,), (0, 1)])
def test_an_axis_that_some_leave_open_is_read_from_the_contexts(
    library: FakeTensorRt, tmp_path: Path, opened: tuple[int, ...]
) -> None:
    both = one("small", 1, 4), one("large", 8)
    for index in opened:
        both[index][0]["open"] = "settled"
    lane = make_lane(tmp_path, *both)
    expect_ran(library, lane, {3: ["small"], 8: ["large"]})
    lane.close()


def test_an_open_axis_that_settles_otherwise_in_another_alternative_is_refused(
    library: FakeTensorRt, tmp_path: Path
) -> None:
    both = one("small", 1, 4, open="settled"), one("large", 8, open="settled", output=OTHER)
    told = r"output 'predictions' \(plan 2 of 2\) by batch is \{8: \(8, 5, 2, 3\)\}, expected .*, 4, 2, 3\)"
    expect_refused(library, tmp_path, told, *both)


def test_alternatives_know_each_other_s_axes_and_list_tensors_alike() -> None:
    def tensor(name: str, *shape: int | None) -> TensorSpec:
        return TensorSpec(name, np.dtype(np.float32), shape)

    def network(reads: list[TensorSpec], gives: list[TensorSpec]) -> NetworkTensors:
        return join_stages([StageTensors(tuple(reads), tuple(gives))])

    x, y = tensor("x", 3), tensor("y", 2)
    first = network([x, y], [tensor("a", None, 5), tensor("b", None)])
    second = network([y, x], [tensor("b", 7), tensor("a", 4, None)])
    found = merge_alternatives([first, second])
    a, b = tensor("a", 4, 5), tensor("b", 7)
    assert [each.groups for each in found] == [{"inputs": [x, y], "intermediates": [], "outputs": [a, b]}] * 2
    assert [each.stages for each in found] == [(StageTensors((x, y), (a, b)),), (StageTensors((y, x), (b, a)),)]
    assert merge_alternatives([first]) == (first,)
