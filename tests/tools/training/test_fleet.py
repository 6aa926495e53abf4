"""Tests `streamd/tools/training/fleet.py`: fleet files of any kind, for `streamd evaluate`."""

import gzip
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra [train] is not installed")
pytest.importorskip("pandas", reason="the extra [train] is not installed")

from streamd.cli import main
from streamd.tools.training.fleet import read_table, read_training_fleet

TEXT = "machine,ts,cpu_user,note\na,600,1,2\na,1200,3,4\n"


@pytest.mark.parametrize("text", [TEXT, "\ufeff" + TEXT.replace(",", ";"), TEXT.replace("machine,ts", "Server,time")])
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_is_read_as_the_replayer_reads_it(tmp_path: Path, text: str, packed: bool) -> None:
    path = tmp_path / ("f.csv.gz" if packed else "f.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    fleet = read_training_fleet(path, ["cpu_user", "mem_used"], {"mem_used": "note"})
    assert (fleet.machines, fleet.begin) == (["a"], 600)
    np.testing.assert_array_equal(fleet.values[0], [[1, 2], [np.nan, np.nan], [3, 4]])


@pytest.mark.parametrize(("factor", "unit"), [(10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")])
def test_times_in_a_finer_unit_are_named(tmp_path: Path, factor: int, unit: str) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f"machine,ts,cpu_user\na,{1_763_708_400 * factor},1\n")
    with pytest.raises(ValueError, match=rf"f\.csv:2: time [0-9.e+]+ looks like {unit}; expected epoch seconds"):
        read_table(path)


def test_missing_data_is_reported_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(tmp_path), "--output", str(tmp_path / "run")]) == 2
    assert "streamd train: " in (error := capsys.readouterr().err)
    assert "expected a folder with smd_5min.parquet, splits.json, feature_map.json" in error
    version = Path(__file__).parents[3] / "engines" / "patch_tensorrt_20261129_132957"
    path = tmp_path / "f.csv"
    path.write_text("machine,ts,cpu_user\na,1763708400000,1\n")
    assert main(["evaluate", "--model", str(version), "--data", str(path)]) == 2
    assert f"streamd evaluate: {path}:2: time 1763708400000 looks like milliseconds" in capsys.readouterr().err
    assert main(["evaluate", "--model", str(tmp_path), "--data", str(path)]) == 2
