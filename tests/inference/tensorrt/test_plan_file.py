"""Tests `streamd/inference/tensorrt/plan_file.py`.

Plans of several stages: the file that holds them, their tensors, and lanes that run them in order.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import BackendUnavailableError, BatchFailedError
from streamd.inference import cuda
from streamd.inference.runner import TensorSpec
from streamd.inference.tensorrt.engine import Plan, SharedEngine, set_scratch
from streamd.inference.tensorrt.lane import TensorRtBackend, TensorRtLane
from streamd.inference.tensorrt.library import load_tensorrt
from streamd.inference.tensorrt.plan_file import (
    ALTERNATIVES_MAGIC,
    MAX_STAGES,
    STAGES_MAGIC,
    pack_stages,
    unpack_stages,
)
from streamd.inference.tensorrt.runner import TensorRtRunner, find_plan_buckets
from streamd.inference.tensorrt.tensors import StageTensors, join_stages
from tests.support.fake_tensorrt_runtime import FakeTensorRt
from tests.support.staged_plans import (
    BUCKETS,
    CONTRACT,
    MAGICS,
    SHAPES,
    STATIC,
    WINDOW,
    Said,
    altered,
    expect_refused_wherever_cut,
    expect_right,
    three_stages,
)


def make_plan(folder: Path, stages: list[Said]) -> Plan:
    path = folder / "model_fp16.engine"
    path.write_bytes(pack_stages([json.dumps(stage).encode() for stage in stages]))
    return Plan(path, "fp16")


def make_lane(folder: Path, stages: list[Said], **more: Any) -> TensorRtLane:
    return TensorRtBackend(make_plan(folder, stages), CONTRACT, BUCKETS, **more).make_lane(0)


def expect_refused(library: FakeTensorRt, folder: Path, stages: list[Said], told: str) -> None:
    with pytest.raises(BackendUnavailableError, match=told):
        make_lane(folder, stages)
    assert cuda.count_live() == {}
    assert library.cuda.left == 0


# ---------------------------------------------------------------- the file
plans = st.lists(
    st.binary(min_size=1, max_size=40).filter(lambda plan: not plan.startswith(MAGICS)),
    min_size=2,
    max_size=MAX_STAGES,
)


@given(plans)
def test_what_is_packed_is_unpacked_each_plan_at_a_multiple_of_eight(given: list[bytes]) -> None:
    content = pack_stages([given[0], bytearray(given[1]), *(memoryview(plan) for plan in given[2:])])
    found = unpack_stages(content)
    assert [bytes(plan) for plan in found] == given
    base = np.frombuffer(content, np.uint8).ctypes.data
    assert {(np.frombuffer(plan, np.uint8).ctypes.data - base) % 8 for plan in found} == {0}


@given(plans)
def test_a_file_cut_anywhere_is_refused_and_so_is_a_longer_one(given: list[bytes]) -> None:
    expect_refused_wherever_cut(pack_stages(given), unpack_stages)


@given(plans, st.data())
def test_a_file_with_other_bytes_is_read_or_refused_and_never_more(given: list[bytes], data: st.DataObject) -> None:
    content = altered(pack_stages(given), data)
    try:
        found = unpack_stages(content)
    except BackendUnavailableError:
        return
    assert all(len(plan) for plan in found)
    assert pack_stages([bytes(plan) for plan in found]) == content


@given(
    st.binary(min_size=1).filter(
        lambda content: content[: len(STAGES_MAGIC)] not in [each[: len(content)] for each in MAGICS]
    )
)
def test_one_plan_is_its_own_file(content: bytes) -> None:
    assert pack_stages([content]) == content
    (found,) = unpack_stages(content)
    assert found == content


def header(count: int, *lengths: int) -> bytes:
    return STAGES_MAGIC + count.to_bytes(4, "little") + b"".join(length.to_bytes(8, "little") for length in lengths)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (header(0), "0 stages, expected 2 to 16"),
        (header(1, 1) + bytes(5), "1 stages, expected 2 to 16"),
        (header(17, *[1] * 17), "17 stages, expected 2 to 16"),
        (header(0xFFFFFFFF), "4294967295 stages, expected 2 to 16"),
        (header(2, 3), "28 bytes, expected at least 36 bytes for 2 stages"),
        (header(2, 3, 0) + bytes(7), "stage 2 of 2 is empty, expected a plan"),
        (header(2, 1, 2**64 - 1), r"36 bytes for stages of \[1, 18446744073709551615\] bytes, expected 1844"),
        (header(2, 1, 1) + b"\0\0\0\1a" + bytes(7) + b"b", "bytes 36 to 40 lie between plans, expected zeros"),
        (b"", "0 bytes, expected a plan"),
        (
            header(2, 1, 16) + bytes(4) + b"a" + bytes(7) + STAGES_MAGIC,
            "stage 2 of 2 holds several plans, expected one",
        ),
        (ALTERNATIVES_MAGIC, "16 bytes that begin as several plans do, expected one or its stages"),
    ],
)
def test_a_file_that_is_not_as_it_says_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(BackendUnavailableError, match=told):
        unpack_stages(content)


@pytest.mark.parametrize("given", [[], [b""], [b"a", b""], [b"a"] * 17])
def test_no_file_is_made_that_would_be_refused(given: list[bytes]) -> None:
    with pytest.raises(ValueError, match="expected 1 to 16 plans, none of them empty"):
        pack_stages(given)


@pytest.mark.parametrize(
    "given", [[pack_stages([b"a", b"b"])], [b"a", pack_stages([b"a", b"b"])], [ALTERNATIVES_MAGIC]]
)
def test_no_file_is_made_of_files_of_several_plans(given: list[bytes]) -> None:
    with pytest.raises(ValueError, match=f"plan {len(given)} of {len(given)} holds several plans, expected one"):
        pack_stages(given)


# ---------------------------------------------------------------- running
def test_stages_run_in_order_in_one_graph_and_what_lies_between_stays_on_the_device(
    library: FakeTensorRt, tmp_path: Path
) -> None:
    lane = make_lane(tmp_path, three_stages())
    assert lane.describe() == {"graphs": {"1": "captured", "4": "captured", "8": "captured"}}
    assert cuda.count_live() == {
        "engines": 3, "contexts": 9, "streams": 1, "events": 1, "graphs": 3,
        "host_buffers": len(SHAPES) + 1, "device_buffers": len(SHAPES) + 4,
    }  # fmt: skip
    for count in range(1, 9):
        del library.cuda.calls[:], library.ran[:]
        expect_right(lane, count, count)
        assert library.ran == ["scaler", "core", "restorer"]
        assert library.cuda.calls.count("cudaGraphLaunch") == 1
        assert "cudaMemcpyAsync" not in library.cuda.calls
    lane.close()
    assert cuda.count_live() == {}
    assert library.cuda.left == 0
    assert sorted(library.gone[:3]) == ["core", "restorer", "scaler"]
    assert library.gone[3:] == ["runtime"]


def test_all_stages_share_one_scratch_block_as_large_as_the_largest_needs(
    library: FakeTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []

    def note(context: Any, pointer: int, nbytes: int) -> None:
        told.append((pointer, nbytes))
        set_scratch(context, pointer, nbytes)

    monkeypatch.setattr("streamd.inference.tensorrt.executor.set_scratch", note)
    lane = make_lane(tmp_path, three_stages())
    assert len(told) == 9
    assert len(set(told)) == 1
    assert told[0][1] == 8192
    lane.close()


def test_stages_that_cannot_be_captured_are_enqueued_one_by_one(library: FakeTensorRt, tmp_path: Path) -> None:
    stages = three_stages()
    stages[1]["profiles"] = [[1, 4, 8]]
    lane = make_lane(tmp_path, stages)
    reasons = lane.describe()["graphs"]
    assert all("(stage 2 of 3): a loop of dynamic shape" in how for how in reasons.values()), reasons
    for count in (1, 3, 8):
        del library.ran[:]
        expect_right(lane, count, count)
        assert library.ran == ["scaler", "core", "restorer"]
    library.refusals += ["no memory for that"]
    with pytest.raises(BatchFailedError, match=r"a batch of 4 \(stage 1 of 3\): no memory for that"):
        lane.run(3)
    expect_right(lane, 3, 3)
    lane.close()


@pytest.mark.parametrize("cut", [(0, 1), (1, 2)])
def test_an_axis_left_open_between_stages_is_read_from_the_contexts(
    library: FakeTensorRt, tmp_path: Path, cut: tuple[int, int]
) -> None:
    stages = three_stages()
    stages[cut[0]]["open"] = "settled"
    lane = make_lane(tmp_path, stages)
    expect_right(lane, 5, 5)
    lane.close()


@pytest.mark.parametrize(("how", "told"), [("unknown", r"8: \(8, -1"), ("by batch", r"1: \(1, 8, .*8: \(8, 64, ")])
def test_a_tensor_between_stages_without_one_shape_for_every_row_is_refused(
    library: FakeTensorRt, tmp_path: Path, how: str, told: str
) -> None:
    stages = three_stages()
    stages[0]["open"] = how
    expect_refused(library, tmp_path, stages, rf"output 'scaled' \(stage 1 of 3\) by batch is .*{told}")


def test_lanes_share_the_engines_of_all_stages(library: FakeTensorRt, tmp_path: Path) -> None:
    backend = TensorRtBackend(make_plan(tmp_path, three_stages()), CONTRACT, BUCKETS)
    lanes = [backend.make_lane(index) for index in range(2)]
    assert library.loaded == 3
    lanes[0].close()
    assert (cuda.count_live()["engines"], cuda.count_live()["contexts"]) == (3, 9)
    expect_right(lanes[1], 4, 4)
    lanes[1].close()
    lane = backend.make_lane(0)
    assert library.loaded == 6
    lane.close()


def test_stages_of_an_older_tensorrt_share_one_lean_runtime_which_goes_before_its_parent(
    library: FakeTensorRt, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, three_stages())
    lane = TensorRtBackend(Plan(plan.path, "fp16", tmp_path / "lean.so"), CONTRACT, BUCKETS).make_lane(0)
    assert library.parents == [str(tmp_path / "lean.so")]
    lane.close()
    assert library.gone[3:] == ["lean runtime", "runtime"]


def test_any_network_s_runner_knows_nothing_of_stages(library: FakeTensorRt, tmp_path: Path) -> None:
    stages = three_stages()
    stages[2]["profiles"] = [[4, 4, 4], [8, 8, 8], [16, 16, 16]]
    engine = SharedEngine(load_tensorrt(), make_plan(tmp_path, stages), 0)
    assert find_plan_buckets(engine, None) == (4, 8), "those that every stage takes"
    assert find_plan_buckets(engine, (8,)) == (8,)
    with pytest.raises(BackendUnavailableError, match=r"takes a batch of \[1, 16\], expected some of \(4, 8"):
        find_plan_buckets(engine, (1, 4, 16))
    runner = TensorRtRunner("cuda:0/0", engine, (4, 8))
    assert {spec.name for spec in runner.inputs} == set(SHAPES)
    assert [spec.name for spec in runner.outputs] == ["predictions"]
    rows = {spec.name: np.ones((3, *spec.make_batch_shape(1)[1:]), spec.dtype) for spec in runner.inputs}
    assert list(runner.run(rows)) == ["predictions"]
    runner.close()


# ---------------------------------------------------------------- what does not load
def test_a_stage_that_does_not_load_is_named_and_the_ones_before_it_are_let_go(
    library: FakeTensorRt, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, three_stages())
    first, _, third = (bytes(each) for each in unpack_stages(plan.path.read_bytes()))
    plan.path.write_bytes(pack_stages([first, b"no plan", third]))
    backend = TensorRtBackend(Plan(plan.path, "fp16", tmp_path / "lean.so"), CONTRACT, BUCKETS)
    with pytest.raises(
        BackendUnavailableError, match=r"model_fp16.engine.*cannot load stage 2 of 3 .*magic tag.*engine build"
    ):
        backend.make_lane(0)
    assert library.gone == ["scaler", "lean runtime", "runtime"]
    assert cuda.count_live() == {}
    make_plan(tmp_path, three_stages())
    lane = backend.make_lane(0)
    expect_right(lane, 2, 2)
    lane.close()


def test_a_truncated_file_of_stages_is_named_with_the_way_out(library: FakeTensorRt, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, three_stages())
    plan.path.write_bytes(plan.path.read_bytes()[:-1])
    with pytest.raises(BackendUnavailableError, match=r"model_fp16.engine: \d+ bytes for stages of .*engine build"):
        TensorRtBackend(plan, CONTRACT, BUCKETS).make_lane(0)
    assert library.loaded == 0
    assert cuda.count_live() == {}


@pytest.mark.parametrize(("stage", "place"), [("scaler", 1), ("core", 2), ("restorer", 3)])
def test_a_context_that_cannot_be_made_leaves_nothing(
    library: FakeTensorRt, tmp_path: Path, stage: str, place: int
) -> None:
    library.without_context = stage
    told = rf"no context \(stage {place} of 3\) for a batch of 1: no resources for a context"
    expect_refused(library, tmp_path, three_stages(), told)


@pytest.mark.parametrize("place", range(1, len(SHAPES) + 5))
def test_wherever_the_device_s_memory_ends_nothing_is_left(library: FakeTensorRt, tmp_path: Path, place: int) -> None:
    library.cuda.fail("cudaMalloc", *[0] * (place - 1), 2)
    expect_refused(library, tmp_path, three_stages(), "cudaErrorMemoryAllocation")


# ---------------------------------------------------------------- what does not fit together
def change(stages: list[Said], index: int, side: str, name: str, tensor: list[Any] | None) -> list[Said]:
    stages[index][side].pop(name, None)
    if tensor is not None:
        stages[index][side][name] = tensor
    return stages


FLOAT_WINDOW = ["float32", list(WINDOW)]
WIDER = [WINDOW[0], WINDOW[1] + 1]


@pytest.mark.parametrize(
    ("index", "side", "name", "tensor", "told"),
    [
        (
            1,
            "reads",
            "scaled",
            ["float16", WINDOW],
            "stage 2 of 3 reads it as .* float16, but stage 1 of 3 gives it",
        ),
        (
            2,
            "reads",
            "middle",
            ["float32", WIDER],
            r"stage 3 of 3 reads it as \(batch, 8, 4\) .*stage 2 of 3 gives",
        ),
        (2, "reads", "middle", ["float32", WINDOW[:1]], r"stage 3 of 3 reads it as \(batch, 8\) float32, but"),
        (2, "reads", "encoder_cat", ["float32", SHAPES["encoder_cat"]], "but stage 2 of 3 reads it as .* int32"),
        (2, "gives", "scaled", [*FLOAT_WINDOW, "double middle"], "stage 1 of 3 gives it, and stage 3 of 3 gives it"),
        (0, "reads", "middle", FLOAT_WINDOW, "'middle': stage 1 of 3 reads it, and stage 2 of 3 gives it, expected"),
        (2, "reads", "encoder_cat", ["int32", []], "tensor 'encoder_cat' has no axes"),
        (2, "reads", "extra", ["float32", [5]], "the engine's inputs are .*'extra'"),
        (2, "reads", "middle", None, "the engine's outputs are .*'middle'"),
    ],
)
def test_stages_that_do_not_fit_together_are_refused_and_nothing_is_left(
    library: FakeTensorRt, tmp_path: Path, index: int, side: str, name: str, tensor: list[Any] | None, told: str
) -> None:
    stages = change(three_stages(), index, side, name, tensor)
    if name == "middle" and tensor is None:
        stages[2]["gives"]["predictions"][2] = "forecast encoder_cont"
        stages[2]["reads"]["encoder_cont"] = FLOAT_WINDOW
    expect_refused(library, tmp_path, stages, told)


def test_a_stage_that_reads_what_it_gives_is_refused() -> None:
    spec = TensorSpec("x", np.dtype(np.float32), (3,))
    with pytest.raises(BackendUnavailableError, match="'x': stage 2 of 2 reads it, and stage 2 of 2 gives it"):
        join_stages([StageTensors((), ()), StageTensors((spec,), (spec,))])


def test_a_stage_that_reads_nothing_is_refused(library: FakeTensorRt, tmp_path: Path) -> None:
    stages = three_stages()
    stages[1]["reads"] = {}
    expect_refused(library, tmp_path, stages, "stage 2 of 3 reads no tensor")


def test_a_batch_that_one_stage_does_not_take_is_refused(library: FakeTensorRt, tmp_path: Path) -> None:
    stages = three_stages()
    stages[2]["profiles"] = STATIC[:2]
    expect_refused(library, tmp_path, stages, r"no profile \(stage 3 of 3\) takes a batch of 8")
