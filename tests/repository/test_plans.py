"""Tests `streamd/repository/plans.py`.

Which plan this machine loads, and for each that it does not, why.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamd.core.errors import RepositoryError
from streamd.repository.plans import (
    Machine,
    choose_plan,
    choose_plan_with_reasons,
    explain_damage,
    explain_misfit,
    find_unlisted_plans,
    read_plans,
)
from streamd.repository.versions import EngineVersion, load_version
from tests.support.made_versions import add_plan, digest, judge, make, tell

GPU, CAPABILITY, TENSORRT = "NVIDIA H200", "9.0", "8.6.1"
HERE = Machine(GPU, CAPABILITY, TENSORRT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make(tmp_path, "a_20260101_000000")


def chosen(path: Path, precision: str = "auto", machine: Machine = HERE) -> str:
    return choose_plan_with_reasons(load_version(path), precision, machine).plan.precision


def refusal(path: Path, precision: str = "auto", machine: Machine = HERE) -> str:
    with pytest.raises(RepositoryError) as caught:
        choose_plan_with_reasons(load_version(path), precision, machine)
    said = str(caught.value)
    assert f"streamd engine build --version {path}" in said, "the way out"
    return said


def good(path: Path, precision: str, **said: Any) -> Path:
    file = add_plan(path, precision, f"the {precision} plan".encode(), **said)
    judge(path, precision, True)
    return file


# ---------------------------------------------------------------- what is listed
def test_a_plan_is_read_as_it_is_listed(path: Path) -> None:
    file = add_plan(path, "fp16", version_compatible=True, preferred=True)
    judge(path, "fp16", False, "coverage off by 7 %", "pinball loss 3 % worse")
    (plan,) = read_plans(load_version(path))
    assert (plan.path, plan.precision, plan.gpu, plan.compute_capability) == (file, "fp16", GPU, CAPABILITY)
    assert (plan.tensorrt, plan.buckets, plan.version_compatible) == (TENSORRT, (1, 8), True)
    assert (plan.promotable, plan.validated, plan.preferred) == (False, True, True)
    assert plan.reasons == ("coverage off by 7 %", "pinball loss 3 % worse")
    assert plan.sha256 == digest(file)


def test_a_version_without_plans_says_how_to_build_one(path: Path) -> None:
    assert read_plans(load_version(path)) == []
    assert "none is built" in refusal(path)
    assert "--precision int8" in refusal(path, "int8")


@pytest.mark.parametrize("file", ["../other/model_fp16.engine", "/etc/passwd", "", "..", "model.onnx", "sub/x.engine"])
def test_a_plan_elsewhere_is_refused_and_the_graph_serves(path: Path, file: str) -> None:
    add_plan(path, "fp16", file=file)
    with pytest.raises(RepositoryError, match=r"plans\.fp16\.file"):
        read_plans(load_version(path))


@pytest.mark.parametrize(
    "plans", [5, [], {"fp16": {}}, {"fp16": {"file": "a.engine"}}, {"fp16": None}, {"fp16": {"buckets": [0]}}]
)
def test_a_list_of_plans_that_is_none_is_refused_and_the_graph_serves(path: Path, plans: Any) -> None:
    tell(path, plans=plans)
    with pytest.raises(RepositoryError, match=r"conversion_info\.json: plans"):
        choose_plan(load_version(path), "auto", GPU, CAPABILITY, TENSORRT)


# ---------------------------------------------------------------- which precision
@pytest.mark.parametrize(
    ("built", "first"),
    [
        (("fp32",), "fp32"),
        (("fp32", "fp16"), "fp16"),
        (("fp16", "bf16", "fp32"), "fp16"),
        (("fp32", "bf16"), "bf16"),
        (("int8", "fp32"), "fp32"),
        (("int8", "fp8", "bf16"), "bf16"),
    ],
)
def test_auto_prefers_half_precision_and_never_int8_by_itself(path: Path, built: tuple[str, ...], first: str) -> None:
    for precision in built:
        good(path, precision)
    assert chosen(path) == first
    assert [chosen(path, precision) for precision in built] == [*built], "asked for by name, each is taken"


def test_int8_is_taken_by_auto_only_where_it_is_preferred(path: Path) -> None:
    good(path, "int8")
    assert "int8: not marked as preferred; request it by name" in refusal(path)
    good(path, "fp16")
    good(path, "int8", preferred=True)
    assert chosen(path) == "int8"
    assert choose_plan(load_version(path), "auto", GPU, CAPABILITY, TENSORRT).path.name == "model_int8.engine"


def test_a_precision_that_is_not_built_is_told_with_those_that_are(path: Path) -> None:
    good(path, "fp16")
    assert "no int8 plan" in refusal(path, "int8")
    assert "there are plans in fp16" in refusal(path, "int8")


# ---------------------------------------------------------------- the accuracy gate
def test_what_the_gate_refused_is_never_taken(path: Path) -> None:
    add_plan(path, "fp16")
    judge(path, "fp16", False, "coverage off by 7 %")
    for precision in ("auto", "fp16"):
        assert "coverage off by 7 %" in refusal(path, precision)
    good(path, "fp32")
    choice = choose_plan_with_reasons(load_version(path), "auto", HERE)
    assert choice.plan.precision == "fp32"
    assert len(choice.skip_reasons) == 1
    assert "coverage off by 7 %" in choice.skip_reasons[0]


def test_what_was_never_judged_is_taken_by_name_only_but_for_true_fp32(path: Path) -> None:
    add_plan(path, "fp16")
    assert "never validated" in refusal(path)
    assert chosen(path, "fp16") == "fp16"
    add_plan(path, "fp32", tf32=True)
    assert "fp32: the accuracy gate did not let it through: never validated" in refusal(path)
    add_plan(path, "fp32")
    assert chosen(path) == "fp32"


# ---------------------------------------------------------------- which machine
@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (Machine("NVIDIA A100", "8.0", TENSORRT), "built for NVIDIA H200"),
        (Machine("NVIDIA H100", CAPABILITY, TENSORRT), "here is NVIDIA H100"),
        (Machine(GPU, "9.1", TENSORRT), "9.1"),
        (Machine(GPU, CAPABILITY, "8.6.0"), "built by TensorRT 8.6.1, here is 8.6.0"),
        (Machine(GPU, CAPABILITY, "10.16.0"), "built by TensorRT 8.6.1"),
        (Machine(GPU, CAPABILITY, "8.60.1"), "built by TensorRT 8.6.1"),
        (Machine(GPU, CAPABILITY, ""), "not both are versions"),
        (Machine(GPU, CAPABILITY, TENSORRT, lean=True), "version-compatible plans only"),
    ],
)
def test_a_plan_of_another_machine_is_passed_over(path: Path, machine: Machine, said: str) -> None:
    good(path, "fp16")
    assert said in refusal(path, "auto", machine)
    assert said in refusal(path, "fp16", machine)


@pytest.mark.parametrize("here", ["8.6.1", "8.6", "8.6.1.6", "8.6.1.post1"])
def test_the_same_version_may_be_told_more_or_less_exactly(path: Path, here: str) -> None:
    good(path, "fp16")
    assert chosen(path, machine=Machine(GPU, CAPABILITY, here)) == "fp16"


@pytest.mark.parametrize(
    ("here", "lean", "fits"),
    [
        ("8.6.1", False, True),
        ("8.6.2", False, True),
        ("10.16.0", True, True),
        ("11.0", False, True),
        ("8.6.0", False, False),
        ("8.5.9", True, False),
    ],
)
def test_a_version_compatible_plan_runs_in_later_ones(path: Path, here: str, lean: bool, fits: bool) -> None:
    good(path, "fp16", version_compatible=True)
    machine = Machine(GPU, CAPABILITY, here, lean)
    if fits:
        assert chosen(path, machine=machine) == "fp16"
    else:
        assert "newer than" in refusal(path, machine=machine)


# ---------------------------------------------------------------- the file
def test_a_changed_plan_is_passed_over_and_the_version_serves(path: Path) -> None:
    good(path, "fp16").write_bytes(b"another plan")
    assert load_version(path).name == path.name
    assert "model_fp16.engine changed since it was built" in refusal(path)
    good(path, "fp32")
    assert chosen(path) == "fp32"


def test_a_missing_an_empty_and_a_linked_plan_are_passed_over(path: Path) -> None:
    file = good(path, "fp16")
    file.write_bytes(b"")
    assert "is empty" in refusal(path)
    file.unlink()
    assert "is missing" in refusal(path)
    (path / "other.engine").write_bytes(b"the fp16 plan")
    file.symlink_to("other.engine")
    assert "is missing" in refusal(path)


def test_a_plan_without_a_hash_is_passed_over(path: Path) -> None:
    good(path, "fp16")
    tell(path, sha256={})
    assert "no SHA-256 of model_fp16.engine" in refusal(path)


def test_a_plan_that_is_not_listed_is_refused_by_name(path: Path) -> None:
    (path / "model_fp16.engine").write_bytes(b"from somewhere")
    version = load_version(path)
    assert [each.name for each in find_unlisted_plans(version)] == ["model_fp16.engine"]
    assert "model_fp16.engine: conversion_info.json does not list it" in refusal(path)


# ---------------------------------------------------------------- against a naive model
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
plans = st.dictionaries(
    st.sampled_from(PRECISIONS),
    st.fixed_dictionaries(
        {
            "gpu": st.sampled_from([GPU, "other"]),
            "tensorrt": st.sampled_from(["8.6.1", "10.0.0", "7.0.0"]),
            "version_compatible": st.booleans(),
            "preferred": st.booleans(),
        }
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(plans, st.dictionaries(st.sampled_from(PRECISIONS), st.booleans()), st.sampled_from(["auto", *PRECISIONS]))
def test_the_choice_is_the_naive_ones(
    tmp_path_factory: pytest.TempPathFactory, built: dict[str, Any], judged: dict[str, bool], asked: str
) -> None:
    version = _version(tmp_path_factory.mktemp("engines"), built, judged)

    def usable(precision: str) -> bool:
        plan = built.get(precision)
        if plan is None or plan["gpu"] != GPU or not judged.get(precision, asked != "auto" or precision == "fp32"):
            return False
        return bool(plan["tensorrt"] == "8.6.1" or (plan["version_compatible"] and plan["tensorrt"] == "7.0.0"))

    order = [asked] if asked != "auto" else ["fp16", "bf16", "fp32"]
    if asked == "auto":
        preferred = [name for name in ("fp16", "bf16", "fp32", "int8") if built.get(name, {}).get("preferred")]
        order = list(dict.fromkeys([*preferred, *order]))
    expected = next(filter(usable, order), None)
    try:
        found = choose_plan_with_reasons(version, asked, HERE).plan
    except RepositoryError as exc:
        assert expected is None, str(exc)  # noqa: PT017 - either may be right
    else:
        assert found.precision == expected
        assert explain_misfit(found, HERE, is_requested=asked != "auto") is None
        assert explain_damage(found) is None


_counter = itertools.count()


def _version(root: Path, built: dict[str, Any], judged: dict[str, bool]) -> EngineVersion:
    path = make(root, f"v{next(_counter)}_20260101_000000")
    for precision, said in built.items():
        add_plan(path, precision, precision.encode(), **said)
    for precision, verdict in judged.items():
        judge(path, precision, verdict)
    return load_version(path)
