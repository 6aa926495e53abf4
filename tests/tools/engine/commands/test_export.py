"""Tests `streamd/tools/engine/commands/export.py` and `ship.py`: refusals, results, the path to a promotion."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.cli import main
from streamd.core.errors import ConfigError
from streamd.repository.conversion import read_verdicts
from streamd.repository.record import read_promotion_record
from streamd.repository.versions import load_version
from streamd.tools.networks.weights import find_weights

ROOT = Path(__file__).parents[4]
PATCH = next(path for path in (ROOT / "engines").iterdir() if path.name.startswith("patch"))
FLEET = ROOT / "examples/fleet/servers.csv.gz"


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "last.ckpt", "pytorch_model.bin", "weights.PKL"])
@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_pickle_is_refused_by_name(
    tmp_path: Path, name: str, whole_folder: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(b"never read")
    given = tmp_path if whole_folder else tmp_path / name
    assert main(["engine", "export", str(given), "--out", str(tmp_path / "out")]) == 2
    output = capsys.readouterr().err
    assert str(tmp_path / name) in output
    assert "CVE-2025-32434" in output
    assert "safetensors.torch.save_file" in output, "the way out"
    assert not (tmp_path / "out").exists()


def test_a_pickle_under_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ConfigError, match="a pickle under another name"):
        find_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(ConfigError, match="a pickle under another name"):
        find_weights(tmp_path)
    # A header of 128 bytes begins like a pickle, and is none.
    path.write_bytes((128).to_bytes(8, "little") + b"{" + b" " * 127)
    assert find_weights(tmp_path) == path


def test_a_path_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a folder with weights\.safetensors"):
        find_weights(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"\x08")
    with pytest.raises(ConfigError, match=r"expected a \.safetensors file"):
        find_weights(tmp_path / "model.onnx")
    assert find_weights(PATCH) == PATCH / "weights.safetensors"


def test_without_pytorch_the_error_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    assert main(["engine", "export", str(PATCH), "--out", str(tmp_path / "out"), "--quiet"]) == 1
    assert "pip install 'streamd[train]'" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == [], "nothing that looks like a version"


def small_run(folder: Path) -> Path:
    """Write the folder of a training run of a small network."""
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    from streamd.tools.networks.contract import NetworkContract
    from streamd.tools.networks.registry import build_network

    torch.manual_seed(3)
    options = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}
    network = build_network("patch_forecaster", NetworkContract(servers=5), **options)
    folder.mkdir()
    save_file({name: each.contiguous() for name, each in network.state_dict().items()},
              str(folder / "weights.safetensors"))  # fmt: skip
    info = {"architecture": "patch_forecaster", "config": {"architecture": "patch_forecaster", "model": options}}
    (folder / "training_info.json").write_text(json.dumps(info))
    return folder


def test_a_run_becomes_a_checked_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "run")
    arguments = ["engine", "export", str(run), "--out", str(tmp_path / "engines"), "--name", "small", "--json"]
    arguments += ["--data", str(FLEET), "--batches", "1,3,4"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    version = load_version(Path(result["folder"]))
    assert version.name.startswith("small_tensorrt_")
    assert version.manifest.architecture == "patch_forecaster"
    assert 0 <= result["largest_relative_error"] <= 1e-4
    info = json.loads((version.path / "conversion_info.json").read_text())
    assert info["opset"] == 17
    assert info["command"] == ["streamd", *arguments]
    assert set(info["sha256"]) == {each.name for each in version.path.iterdir()} - {"conversion_info.json"}
    assert json.loads((version.path / "config.json").read_text())["name"] == version.name
    assert "batch axis is dynamic" in (version.path / "conversion_log.txt").read_text()
    # What it wrote is what it reads: the version can be exported again.
    assert main(["engine", "export", str(version.path), "--data", str(FLEET), "--batches", "2", "--quiet"]) == 0


def test_weights_of_another_network_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "run")
    info = json.loads((run / "training_info.json").read_text())
    info["config"]["model"]["width"] = 32
    (run / "training_info.json").write_text(json.dumps(info))
    assert main(["engine", "export", str(run), "--out", str(tmp_path / "engines"), "--quiet"]) == 1
    assert "not the weights that training_info.json describes" in capsys.readouterr().err
    (run / "training_info.json").unlink()
    assert main(["engine", "export", str(run), "--out", str(tmp_path / "engines"), "--quiet"]) == 1
    assert "expected the file beside the weights that describes their network" in capsys.readouterr().err
    assert list((tmp_path / "engines").iterdir()) == []


def test_a_graph_that_differs_from_pytorch_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run(tmp_path / "run")
    monkeypatch.setattr("streamd.tools.training.export.TOLERANCE", -1.0)
    assert main(["engine", "export", str(run), "--out", str(tmp_path / "engines"), "--data", str(FLEET)]) == 1
    assert "differs from PyTorch" in capsys.readouterr().err
    assert list((tmp_path / "engines").iterdir()) == []


def test_ship_goes_from_weights_to_the_serving_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "run")
    engines = tmp_path / "engines"
    arguments = ["engine", "ship", str(run), "--engines", str(engines), "--name", "small", "--backend", "onnxruntime"]
    arguments += ["--precision", "fp32,fp16", "--calibration-data", str(FLEET), "--num-calibration-samples", "16"]
    arguments += ["--data", str(FLEET), "--windows", "24", "--why", "a test", "--json"]
    assert main(arguments) == 0
    output = capsys.readouterr()
    result: Any = json.loads(output.out)
    assert result["promote"]["current"] == result["promote"]["serves"] == result["version"]
    assert read_promotion_record(engines).history[-1].why == "a test"
    assert {name: each.promotable for name, each in read_verdicts(engines / result["version"]).items()} == {
        "fp32": True,
        "fp16": True,
    }
    assert [line for line in output.err.splitlines() if " of 4: " in line] == [
        *("1 of 4: export", "2 of 4: build", "3 of 4: validate", "4 of 4: promote"),
    ]


def test_ship_promotes_nothing_that_fails_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from streamd.tools.engine.gate.judge import LIMITS, GateLimits

    run = small_run(tmp_path / "run")
    monkeypatch.setitem(LIMITS, "fp16", GateLimits(2.0, 0.0, 0.0, -1.0))
    engines = tmp_path / "engines"
    arguments = ["engine", "ship", str(run), "--engines", str(engines), "--backend", "onnxruntime"]
    arguments += ["--calibration-data", str(FLEET), "--num-calibration-samples", "16", "--data", str(FLEET)]
    assert main([*arguments, "--windows", "8"]) == 1
    assert "fp16 fails: " in capsys.readouterr().err
    assert read_promotion_record(engines).current is None


def test_a_version_exported_from_another_gives_the_same_forecasts(tmp_path: Path) -> None:
    """Calibration is kept too: the factor by which the bands were widened after training is no weight."""
    pytest.importorskip("torch")
    onnxruntime = pytest.importorskip("onnxruntime")
    assert main(["engine", "export", str(PATCH), "--out", str(tmp_path), "--batches", "2", "--quiet"]) == 0
    (version,) = tmp_path.iterdir()
    contract = load_version(version).contract
    random = np.random.default_rng(5)
    inputs = {name: np.zeros((4, *shape), np.float32) for name, shape in contract.input_shapes.items()}
    inputs |= {name: inputs[name].astype(np.int32) for name in ("encoder_cat", "decoder_cat")}
    inputs["encoder_cont"] = random.random(inputs["encoder_cont"].shape, np.float32) * 90
    before, after = (
        onnxruntime.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
        for path in (PATCH, version)
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
