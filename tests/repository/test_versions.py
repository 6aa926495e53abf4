"""Tests `streamd/repository/versions.py`.

Engine versions on disk: which one serves, and each refusal with its reason.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamd.core.errors import RepositoryError
from streamd.repository.record import PromotionRecord, write_promotion_record
from streamd.repository.versions import EngineRepository, load_version, strip_stamp
from tests.support.made_versions import MANIFEST, digest, make, pin
from tests.support.memory_version import make_memory_contract, make_memory_version


def refusal(path: Path) -> str:
    with pytest.raises(RepositoryError) as caught:
        load_version(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- which one serves
def test_a_sound_version_is_read(tmp_path: Path) -> None:
    path = make(tmp_path, "tft_tensorrt_20260102_030405")
    (path / "server_mapping.json").write_text('{"web-01": 1, "web-02": 2}')
    version = load_version(path)
    assert (version.name, version.stamp) == (path.name, "20260102_030405")
    assert version.onnx == path / "model.onnx"
    assert version.server_ids == {"web-01": 1, "web-02": 2}
    contract = version.contract
    assert (contract.features, contract.targets, contract.quantiles) == (("a", "b"), ("b",), (0.1, 0.5, 0.9))
    assert (contract.context_length, contract.horizon, contract.step_seconds) == (8, 4, 60)
    assert (dict(contract.units), contract.architecture) == ({"a": "percent"}, "fake")


def test_the_newest_serves_where_none_is_the_default(tmp_path: Path) -> None:
    for name in ("z_20250101_000000", "a_20260102_000001", "m_20260102_000000"):
        make(tmp_path, name)
    assert EngineRepository(tmp_path).choose().name == "a_20260102_000001"


def test_the_default_serves_before_newer_ones(tmp_path: Path) -> None:
    make(tmp_path, "a_20250101_000000", default=True)
    make(tmp_path, "a_20260101_000000")
    assert EngineRepository(tmp_path).choose().name == "a_20250101_000000"


def test_of_two_defaults_the_newer_serves(tmp_path: Path) -> None:
    make(tmp_path, "a_20250101_000000", default=True)
    make(tmp_path, "a_20250202_000000", default=True)
    make(tmp_path, "a_20260101_000000")
    assert EngineRepository(tmp_path).choose().name == "a_20250202_000000"


def test_a_version_is_loaded_by_its_name_whichever_would_serve(tmp_path: Path) -> None:
    make(tmp_path, "a_20250101_000000")
    make(tmp_path, "a_20250202_000000", default=True)
    assert EngineRepository(tmp_path).load("a_20250101_000000").name == "a_20250101_000000"


def test_an_unsound_default_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a_20250101_000000")
    make(tmp_path, "a_20260101_000000", default=True, horizon=0)
    assert EngineRepository(tmp_path).choose().name == "a_20250101_000000"


def test_an_unsound_version_that_is_named_is_not_replaced_by_another(tmp_path: Path) -> None:
    make(tmp_path, "a_20250101_000000")
    make(tmp_path, "a_20260101_000000", horizon=0)
    with pytest.raises(RepositoryError, match="horizon"):
        EngineRepository(tmp_path).load("a_20260101_000000")


def test_other_folders_and_files_are_no_versions(tmp_path: Path) -> None:
    for name in ("notes", "a_2026_01", ".a_20260101_000000", "a_20260101_000000.old", "_20260101_000000"):
        (tmp_path / name).mkdir()
    (tmp_path / "f_20270101_000000").write_text("a file")
    make(tmp_path, "a_20250101_000000")
    assert EngineRepository(tmp_path).choose().name == "a_20250101_000000"


def test_if_no_version_is_sound_each_is_named_with_its_reason(tmp_path: Path) -> None:
    make(tmp_path, "a_20250101_000000", quantiles=[0.5, 0.1])
    (make(tmp_path, "b_20250101_000000") / "model.onnx").unlink()
    with pytest.raises(RepositoryError) as caught:
        EngineRepository(tmp_path).choose()
    for part in (str(tmp_path), "a_20250101_000000", "quantiles", "b_20250101_000000", "model.onnx"):
        assert part in str(caught.value)


def test_an_empty_folder_and_a_missing_one_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no folder named"):
        EngineRepository(tmp_path).choose()
    nowhere = EngineRepository(tmp_path / "nowhere")
    for read in (nowhere.choose, lambda: nowhere.load("a_20250101_000000")):
        with pytest.raises(RepositoryError, match="nowhere: no such folder"):
            read()


@pytest.mark.parametrize(
    "name",
    [
        "b_20250101_000000",
        "../engines/a_20250101_000000",
        "../outside_20250101_000000",
        "a_20250101_000000/../a_20250101_000000",
        "a_20250101_000000/inner_20250101_000000",
        "..",
        ".",
        "/",
        "a_20250101_000000\x00",
        "*",
    ],
)
def test_a_name_is_that_of_a_folder_of_the_repository_or_nothing(tmp_path: Path, name: str) -> None:
    root = tmp_path / "engines"
    inner = make(root, "a_20250101_000000")
    make(inner, "inner_20250101_000000")
    make(tmp_path, "outside_20250101_000000")
    with pytest.raises(RepositoryError):
        EngineRepository(root).load(name)


def test_an_absolute_path_to_another_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "engines", "a_20250101_000000")
    outside = make(tmp_path, "outside_20250101_000000")
    with pytest.raises(RepositoryError, match="there are"):
        EngineRepository(tmp_path / "engines").load(str(outside))


def test_the_error_for_an_unknown_name_lists_the_versions(tmp_path: Path) -> None:
    make(tmp_path, "a_20250101_000000")
    with pytest.raises(RepositoryError, match=r"'b_20250101_000000'; there are \['a_20250101_000000'\]"):
        EngineRepository(tmp_path).load("b_20250101_000000")


def test_the_promoted_version_serves_before_the_default(tmp_path: Path) -> None:
    make(tmp_path, "a_20250101_000000")
    make(tmp_path, "a_20250202_000000", default=True)
    make(tmp_path, "a_20260101_000000")
    write_promotion_record(tmp_path, PromotionRecord("a_20250101_000000"))
    repository = EngineRepository(tmp_path)
    assert repository.choose_with_reasons().rule == "promoted"
    assert repository.choose().name == "a_20250101_000000"
    assert repository.load("a_20260101_000000").name == "a_20260101_000000"
    assert repository.choose_unpromoted().version.name == "a_20250202_000000"


def test_if_the_promoted_version_cannot_serve_the_one_before_it_does(tmp_path: Path) -> None:
    (make(tmp_path, "a_20250101_000000") / "model.onnx").unlink()
    make(tmp_path, "a_20250102_000000")
    make(tmp_path, "a_20260101_000000", default=True)
    write_promotion_record(
        tmp_path, PromotionRecord("a_20250101_000000", ("a_20250102_000000", "gone_20250101_000000"))
    )
    choice = EngineRepository(tmp_path).choose_with_reasons()
    assert (choice.version.name, choice.rule) == ("a_20250102_000000", "earlier")
    assert [
        reason
        for name in ("a_20250101_000000", "gone_20250101_000000")
        for reason in choice.skip_reasons
        if name in reason
    ]
    assert len(choice.skip_reasons) == 2
    # 2. If none of them can serve, the default does.
    (tmp_path / "a_20250102_000000" / "config.json").unlink()
    assert EngineRepository(tmp_path).choose_with_reasons().rule == "default"


@pytest.mark.parametrize("name", ["../outside_20250101_000000", "notes", "", "a_20250101_000000/", "x" * 300, "\x00"])
def test_a_promoted_name_that_is_no_version_is_skipped(tmp_path: Path, name: str) -> None:
    root = tmp_path / "engines"
    make(root, "a_20250101_000000")
    make(root, "notes")
    make(tmp_path, "outside_20250101_000000")
    write_promotion_record(root, PromotionRecord(name))
    choice = EngineRepository(root).choose_with_reasons()
    assert (choice.version.name, choice.rule, len(choice.skip_reasons)) == ("a_20250101_000000", "newest", 1)


def test_the_rule_states_whether_a_version_was_promoted_or_marked_or_is_only_the_newest(tmp_path: Path) -> None:
    make(tmp_path, "a_20250101_000000")
    repository = EngineRepository(tmp_path)
    assert repository.choose_with_reasons().rule == "newest"
    write_promotion_record(tmp_path, PromotionRecord("a_20250101_000000"))
    choice = repository.choose_with_reasons()
    assert (choice.version.name, choice.rule) == ("a_20250101_000000", "promoted")
    (tmp_path / "promoted.json").unlink()
    make(tmp_path, "a_20250102_000000", default=True)
    assert repository.choose_with_reasons().rule == "default"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"current": 5}', b'{"earlier": "x"}', b"\xff"])
def test_a_record_that_cannot_be_read_is_named_with_the_way_out(tmp_path: Path, text: bytes) -> None:
    make(tmp_path, "a_20250101_000000")
    (tmp_path / "promoted.json").write_bytes(text)
    with pytest.raises(RepositoryError, match=r"promoted\.json: .*remove it"):
        EngineRepository(tmp_path).choose()
    assert EngineRepository(tmp_path).load("a_20250101_000000").name == "a_20250101_000000"


def test_a_runtime_may_check_the_graph_itself(tmp_path: Path) -> None:
    path = make(tmp_path, "a_20250101_000000")
    seen = []

    def check(graph: Path, contract: object) -> None:
        seen.append(graph)
        raise RepositoryError(f"{graph}: the runtime cannot load it")

    with pytest.raises(RepositoryError, match="the runtime cannot load it"):
        EngineRepository(tmp_path, check).choose()
    assert seen == [path / "model.onnx"]


# ---------------------------------------------------------------- refusals: the name
@pytest.mark.parametrize(
    "name",
    [
        "model",
        "a_20251301_000000",
        "a_20250230_000000",
        "a_20250101_250000",
        "a_20250101_006000",
        "a_20250101",
        "a-20250101_000000",
    ],
)
def test_a_name_without_a_sound_stamp(tmp_path: Path, name: str) -> None:
    assert "not named" in refusal(make(tmp_path, name))


@pytest.mark.parametrize(
    "name", ["tft_pytorch_20260101_000000", "PyTorch_tft_20260101_000000", "torchscript_20260101_000000"]
)
def test_a_folder_named_as_a_pytorch_models(tmp_path: Path, name: str) -> None:
    said = refusal(make(tmp_path, name))
    assert "PyTorch" in said
    assert "export it to ONNX" in said


@pytest.mark.parametrize("file", ["model.pt", "model.pth", "best.ckpt", "weights.pkl", "pytorch_model.bin", "MODEL.PT"])
def test_a_folder_that_holds_a_checkpoint(tmp_path: Path, file: str) -> None:
    path = make(tmp_path, "a_20260101_000000")
    (path / file).write_bytes(b"\x80\x04")
    said = refusal(path)
    assert file in said
    assert "PyTorch" in said
    assert "export it to ONNX" in said


# ---------------------------------------------------------------- refusals: the content
def test_without_a_graph(tmp_path: Path) -> None:
    path = make(tmp_path, "a_20260101_000000")
    (path / "model.onnx").unlink()
    assert "model.onnx" in refusal(path)
    (path / "model.onnx").mkdir()
    assert "model.onnx" in refusal(path)


def test_without_a_manifest(tmp_path: Path) -> None:
    path = make(tmp_path, "a_20260101_000000")
    (path / "config.json").unlink()
    assert "config.json" in refusal(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_cannot_be_read(tmp_path: Path, text: bytes) -> None:
    path = make(tmp_path, "a_20260101_000000")
    (path / "config.json").write_bytes(text)
    assert "config.json" in refusal(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features", None),
        ("features", []),
        ("features", "abc"),
        ("features", ["a", 5]),
        ("features", ["a", "a", "b"]),
        ("features", ["", "b"]),
        ("features", ["x" * 200, "b"]),
        ("targets", None),
        ("targets", []),
        ("targets", ["b", "b"]),
        ("targets", ["c"]),
        ("quantiles", None),
        ("quantiles", []),
        ("quantiles", [0.5, 0.1]),
        ("quantiles", [0.5, 0.5]),
        ("quantiles", [0.0, 0.5]),
        ("quantiles", [0.5, 1.0]),
        ("quantiles", ["0.5"]),
        ("context_length", None),
        ("context_length", 0),
        ("context_length", 2.5),
        ("context_length", True),
        ("context_length", 10**9),
        ("horizon", 0),
        ("horizon", -4),
        ("horizon", "4"),
        ("step_seconds", 0),
        ("step_seconds", None),
        ("units", ["percent"]),
        ("units", {"a": 1}),
        ("architecture", 5),
        ("default", "yes"),
    ],
)
def test_a_manifest_with_a_bad_field_names_it(tmp_path: Path, field: str, value: Any) -> None:
    path = make(tmp_path, "a_20260101_000000")
    said = {key: one for key, one in {**MANIFEST, field: value}.items() if key != field or value is not None}
    (path / "config.json").write_text(json.dumps(said))
    message = refusal(path)
    assert "config.json" in message
    assert field in message


@pytest.mark.parametrize("text", ["[]", "{", '{"a": -1}', '{"a": 1.5}', '{"a": "1"}'])
def test_a_server_mapping_that_is_none(tmp_path: Path, text: str) -> None:
    path = make(tmp_path, "a_20260101_000000")
    (path / "server_mapping.json").write_text(text)
    assert "server_mapping.json" in refusal(path)


# ---------------------------------------------------------------- refusals: files that changed
def test_files_are_as_they_were_made(tmp_path: Path) -> None:
    path = make(tmp_path, "a_20260101_000000")
    pin(path, {"model.onnx": digest(path / "model.onnx"), "config.json": digest(path / "config.json")})
    assert load_version(path).name == path.name


def test_a_version_that_asks_for_a_memory(tmp_path: Path) -> None:
    contract = make_memory_contract()
    path = make_memory_version(tmp_path, "a_20250101_000000", contract)
    assert load_version(path).contract == replace(contract, architecture="memory")


@pytest.mark.parametrize(
    ("memory", "named"),
    [
        ({"length": 0, "step_seconds": 3_600}, "$.memory.length"),
        ({"length": 168}, "step_seconds"),
        ({"length": 168, "step_seconds": 450}, "memory_step_seconds is 450, expected a multiple of step_seconds (300)"),
        ({"length": 24, "step_seconds": 3_600}, "memory is 24 means of 3600 s, expected 168 of 3600 s"),
        ({"length": 168, "step_seconds": 600}, "memory is 168 means of 600 s, expected 168 of 3600 s"),
    ],
)
def test_a_memory_that_the_daemon_does_not_keep_is_refused(tmp_path: Path, memory: dict[str, int], named: str) -> None:
    path = make_memory_version(tmp_path, "a_20250101_000000", make_memory_contract(), memory=memory)
    message = refusal(path)
    assert named in message
    assert "config.json" in message


@pytest.mark.parametrize("file", ["model.onnx", "config.json"])
def test_a_changed_file_is_named(tmp_path: Path, file: str) -> None:
    path = make(tmp_path, "a_20260101_000000")
    pin(path, {file: digest(path / file)})
    (path / file).write_bytes((path / file).read_bytes() + b" ")
    said = refusal(path)
    assert file in said
    assert "SHA-256" in said


def test_a_missing_file_is_named_but_a_plan_need_not_be_there(tmp_path: Path) -> None:
    path = make(tmp_path, "a_20260101_000000")
    pin(path, {"model_fp16.engine": "0" * 64})
    assert load_version(path).name == path.name
    pin(path, {"training_info.json": "0" * 64})
    assert "training_info.json" in refusal(path)
    # 2. A plan that changed is no reason to refuse the graph: it is passed over when plans are chosen (test_plans.py).
    pin(path, {"model_fp16.engine": "0" * 64})
    (path / "model_fp16.engine").write_bytes(b"another")
    assert load_version(path).name == path.name


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "sub/file", "..", ".", "", "../a_20260101_000000/model.onnx"]
)
def test_pins_of_files_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    path = make(tmp_path, "a_20260101_000000")
    (tmp_path / "secret").write_text("secret")
    (path / "sub").mkdir()
    (path / "sub" / "file").write_text("x")
    pin(path, {name: digest(tmp_path / "secret")})
    refusal(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"sha256": []}', '{"sha256": {"model.onnx": 5}}', '{"sha256": null}'])
def test_conversion_info_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    path = make(tmp_path, "a_20260101_000000")
    (path / "conversion_info.json").write_text(text)
    assert "conversion_info.json" in refusal(path)


# ---------------------------------------------------------------- refusals: links
def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(tmp_path: Path) -> None:
    path = make(tmp_path, "a_20260101_000000")
    (path / "model.onnx").rename(path / "graph.onnx")
    (path / "model.onnx").symlink_to("graph.onnx")
    assert load_version(path).name == path.name
    (path / "graph.onnx").rename(tmp_path / "graph.onnx")
    (path / "model.onnx").unlink()
    (path / "model.onnx").symlink_to("../graph.onnx")
    assert "a link out of" in refusal(path)


def test_a_link_to_another_version_or_to_itself_is_refused(tmp_path: Path) -> None:
    whole = make(tmp_path, "a_20260101_000000")
    linked = tmp_path / "b_20260101_000000"
    linked.symlink_to(whole)
    assert "a link" in refusal(linked)
    (whole / "loop").symlink_to("loop")
    assert "loop" in refusal(whole)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    path = make(tmp_path, "a_20260101_000000")
    (path / "model.onnx").unlink()
    os.mkfifo(path / "model.onnx")
    assert "model.onnx" in refusal(path)


# ---------------------------------------------------------------- what ships
def test_the_embedded_versions_are_sound() -> None:
    root = Path(__file__).parents[2] / "engines"
    names = [path.name for path in root.iterdir() if path.is_dir()]
    defaults = [name for name in names if load_version(root / name).manifest.default]
    assert len(defaults) == 1
    assert EngineRepository(root).choose().name == defaults[0]


@pytest.mark.parametrize(
    ("name", "stripped"),
    [
        ("a_20250101_000000", "a"),
        ("a_b_tensorrt_20250101_000000", "a_b"),
        ("a_20250101_000000_b", "a_20250101_000000_b"),
        ("a_tensorrt", "a_tensorrt"),
        ("plain", "plain"),
    ],
)
def test_a_new_version_has_the_name_of_the_old_one_without_its_stamp(name: str, stripped: str) -> None:
    assert strip_stamp(name) == stripped
