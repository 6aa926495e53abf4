"""Tests `streamd/tools/training/fleet.py`: the data sets by name, and fleet files of any kind."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra [train] is not installed")
pd = pytest.importorskip("pandas", reason="the extra [train] is not installed")

from streamd.cli import main  # noqa: E402
from streamd.tools.training.datasets import DATASETS  # noqa: E402
from streamd.tools.training.fleet import (  # noqa: E402
    DataError,
    is_left_out,
    list_datasets,
    load_fleet,
    load_fleets,
    read_training_fleet,
)

DAY = 86_400
TEXT = "machine,ts,cpu_user,note\na,600,1,2\na,1200,3,4\n"


@pytest.mark.parametrize("text", [TEXT, "\ufeff" + TEXT.replace(",", ";"), TEXT.replace("machine,ts", "Server,time")])
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_is_read_as_the_replayer_reads_it(tmp_path: Path, text: str, packed: bool) -> None:
    path = tmp_path / ("f.csv.gz" if packed else "f.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    fleet = read_training_fleet(path, ["cpu_user", "mem_used"], {"mem_used": "note"})
    assert (fleet.machines, fleet.begins.tolist()) == (["a"], [600])
    np.testing.assert_array_equal(fleet.values[0], [[1, 2], [np.nan, np.nan], [3, 4]])


def test_missing_data_is_reported_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(tmp_path), "--output", str(tmp_path / "run")]) == 2
    assert "streamd train: " in (error := capsys.readouterr().err)
    assert "expected a folder with smd_5min.parquet, splits.json, feature_map.json" in error
    version = Path(__file__).parents[3] / "engines" / "patch_tensorrt_20261129_232000"
    path = tmp_path / "f.csv"
    path.write_text("machine,ts,cpu_user\na,1763708400000,1\n")
    assert main(["evaluate", "--model", str(version), "--data", str(path)]) == 2
    assert f"streamd evaluate: {path}:2: time 1763708400000 looks like milliseconds" in capsys.readouterr().err
    assert main(["evaluate", "--model", str(tmp_path), "--data", str(path)]) == 2


def write_days(folder: Path, name: str, spans: dict[str, list[tuple[float, float]]], columns: list[str]) -> None:
    """Write a data set with rows of each machine in these spans of days; each value is the day of its row."""
    definition, rows = DATASETS[name], []
    for machine, parts in spans.items():
        for first, end in parts:
            ts = np.arange(int(first * DAY), int(end * DAY), definition.step_seconds)
            values = dict.fromkeys(columns, (ts / DAY).astype(np.float32))
            if definition.step_column:
                values[definition.step_column] = np.full(len(ts), definition.step_seconds, np.int32)
            rows.append(pd.DataFrame({definition.key: machine, "ts": ts, **values}))
    pd.concat(rows).to_parquet(folder / definition.file, index=False)


def measure_days(fleet: Any, machine: str, split: str) -> tuple[float, float]:
    """Return the first and the last day of a machine's values in a split."""
    values = fleet.select_split(split, [fleet.machines.index(machine)])[0, :, 0]
    known = values[~np.isnan(values)]
    return (round(float(known[0]), 2), round(float(known[-1]), 2)) if len(known) else (0.0, 0.0)


def test_the_last_days_of_each_machine_are_its_test_days(tmp_path: Path) -> None:
    write_days(tmp_path, "azure", {"old": [(0, 30)], "young": [(10, 21)]}, ["min_cpu", "max_cpu", "avg_cpu"])
    fleet = load_fleet(tmp_path, "azure")
    assert [measure_days(fleet, "old", s) for s in ("train", "val", "test")] == [(0, 20), (20, 24), (24, 30)]
    young = [measure_days(fleet, "young", s) for s in ("train", "val", "test")]
    assert young == [(10, 14.8), (14.8, 18.8), (18.8, 21)]


def test_each_machine_has_its_own_time_of_step_0(tmp_path: Path) -> None:
    write_days(tmp_path, "azure", {"old": [(0, 30)], "young": [(10, 21)]}, ["min_cpu", "max_cpu", "avg_cpu"])
    fleet = load_fleet(tmp_path, "azure")
    for machine, (first, end) in enumerate(fleet.find_extents()):
        days = fleet.values[machine, first:end, 0]
        seconds = fleet.begins[machine] + np.arange(first, end) * fleet.step_seconds
        np.testing.assert_allclose(days, seconds / DAY, rtol=1e-6)


def test_a_pool_is_cut_at_long_gaps_and_tested_from_a_given_day(tmp_path: Path) -> None:
    test = DATASETS["cloud_cluster"].test_begin // DAY
    spans = [
        (test - 80.0, test - 60.0),
        (test - 59.5, test - 50.0),
        (test - 10.0, test - 7.0),
        (test + 1.0, test + 4.0),
    ]
    write_days(tmp_path, "cloud_cluster", {"p": spans}, ["cpu_u", "col4_unnamed"])
    fleet = load_fleet(tmp_path, "cloud_cluster")
    assert fleet.machines == ["p/1", "p/2", "p/3"]
    assert measure_days(fleet, "p/1", "train") == (test - 80, test - 50)
    assert measure_days(fleet, "p/2", "train") == (test - 10, test - 9)
    assert measure_days(fleet, "p/2", "val") == (test - 9, test - 7)
    assert measure_days(fleet, "p/3", "test") == (test + 1, test + 4)
    assert measure_days(fleet, "p/1", "val") == measure_days(fleet, "p/3", "train") == (0, 0)


def test_one_table_gives_two_sets_by_their_step(tmp_path: Path) -> None:
    write_days(tmp_path, "mscloud", {"fast": [(0, 11)]}, ["value"])
    five = pd.read_parquet(tmp_path / "mscloud.parquet")
    write_days(tmp_path, "mscloud_hourly", {"slow": [(0, 30)]}, ["value"])
    hourly = pd.read_parquet(tmp_path / "mscloud.parquet")
    pd.concat([five, hourly]).to_parquet(tmp_path / "mscloud.parquet", index=False)
    fast, slow = load_fleet(tmp_path, "mscloud"), load_fleet(tmp_path, "mscloud_hourly")
    assert (fast.machines, fast.step_seconds, fast.columns) == (["fast"], 300, ["value"])
    assert (slow.machines, slow.step_seconds, slow.values.shape) == (["slow"], 3600, (1, 720, 1))


def test_features_are_named_and_derived_columns_added(tmp_path: Path) -> None:
    write_days(tmp_path, "azure", {"a": [(0, 30)]}, ["min_cpu", "max_cpu", "avg_cpu"])
    fleet = load_fleet(tmp_path, "azure")
    features = fleet.stack_features()
    known = [i for i in range(14) if not np.isnan(features[..., i]).all()]
    assert [fleet.natural[i] for i in known] == ["avg_cpu", "100 - avg_cpu"]
    np.testing.assert_allclose(features[..., known].sum(-1), 100, rtol=1e-5)
    assert (fleet.scored, fleet.has_weekdays) == ({"avg_cpu": "cpu_user"}, False)


def test_a_set_with_splits_json_has_its_days(tmp_path: Path) -> None:
    write_days(tmp_path, "smd", {"a": [(0, 10)], "b": [(4, 10)]}, ["cpu_r", "load_1"])
    splits = {"train": [0, 6 * DAY], "val": [6 * DAY, 7 * DAY], "test": [7 * DAY, 9 * DAY]}
    (tmp_path / "splits.json").write_text(json.dumps({"smd": splits}))
    feature_map = {"cpu_user": ["cpu_r", "proxy"], "cpu_idle": ["1 - cpu_r", "derived"], "uptime": [None, "none"]}
    (tmp_path / "feature_map.json").write_text(json.dumps({"smd": feature_map}))
    fleet = load_fleet(tmp_path, "smd")
    assert fleet.splits == {"train": (0, 6 * 288), "val": (6 * 288, 7 * 288), "test": (7 * 288, 9 * 288)}
    assert (fleet.begins.tolist(), fleet.find_extents().tolist()) == ([0, 0], [[0, 2592], [1152, 2592]])
    assert fleet.natural[:4] == ["cpu_r", None, None, "1 - cpu_r"]
    assert sorted(fleet.sha256) == ["smd_5min.parquet", "splits.json"]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    write_days(tmp_path, "azure", {"a": [(0, 30)]}, ["max_cpu"])
    with pytest.raises(DataError, match="'avg_cpu' is neither a column nor a number - column"):
        load_fleet(tmp_path, "azure")


def test_a_set_without_a_day_is_refused(tmp_path: Path) -> None:
    write_days(tmp_path, "azure", {"a": [(0, 0.9)]}, ["avg_cpu"])
    with pytest.raises(DataError, match=r"azure_vm_v2\.parquet: no machine has 1 days, expected one or more"):
        load_fleet(tmp_path, "azure")


def test_sets_are_found_in_a_folder_and_needed_ones_missed_by_name(tmp_path: Path) -> None:
    write_days(tmp_path, "azure", {"a": [(0, 30)]}, ["avg_cpu"])
    assert list_datasets(tmp_path) == ["azure"]
    assert [f.name for f in load_fleets(tmp_path, ["azure"])] == ["azure"]
    with pytest.raises(DataError, match=r"jumpstarter_32d\.parquet: no such file"):
        load_fleets(tmp_path, ["jumpstarter"])
    with pytest.raises(DataError, match="dataset 'other': expected one of "):
        load_fleet(tmp_path, "other")


def test_each_fifth_machine_is_left_out() -> None:
    assert [is_left_out(i, 5) for i in range(10)] == ([False] * 4 + [True]) * 2
    assert not any(is_left_out(i, 0) for i in range(10))
