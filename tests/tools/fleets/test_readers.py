"""Tests `streamd/tools/fleets`: fleets from files of all kinds, joined fleets, synthetic fleets."""

import gzip
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamd.tools.fleets.errors import FleetError
from streamd.tools.fleets.fleet import RecordedFleet, join_fleets, synthesize
from streamd.tools.fleets.readers import ColumnMapping, parse_mapping, read_fleet
from streamd.tools.loadtest.options import EXAMPLE_FLEET

ROOT = Path(__file__).resolve().parents[3]
STEP = 300


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


WIDE = "server,time,cpu_user,mem_used\na,600,1,5\nb,600,2,\na,1200,3,7\n"
LONG = (
    "host,timestamp,feature,value\na,1970-01-01T00:10:00Z,cpu_user,1\na,1970-01-01T00:10:00Z,mem_used,5\n"
    "b,1970-01-01T00:10:00,cpu_user,2\na,1970-01-01T01:20:00+01:00,cpu_user,3\n"
    "a,1970-01-01T00:20:00Z,mem_used,7\n"
)


@pytest.mark.parametrize(("name", "text"), [("f.csv", WIDE), ("f.csv.gz", WIDE), ("long.csv", LONG)])
def test_wide_and_long_files_give_one_fleet(tmp_path: Path, name: str, text: str) -> None:
    fleet = read_fleet(write(tmp_path / name, text), STEP)
    assert fleet.servers == ("a", "b")
    assert fleet.features == ("cpu_user", "mem_used")
    assert (fleet.first_step, fleet.steps) == (2, 3)
    nan = np.nan
    np.testing.assert_array_equal(fleet.series[0], [[1, 5], [nan, nan], [3, 7]])
    np.testing.assert_array_equal(fleet.find_rows(), [[True, True], [False, False], [True, False]])


def test_parquet_gives_the_same_as_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra [replay] is not installed")
    parquet = importlib.import_module("pyarrow.parquet")
    columns = {"machine": ["a", "b", "a"], "ts": [600, 600, 1200], "cpu_user": [1.0, 2.0, 3.0]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "f.parquet")
    fleet = read_fleet(tmp_path / "f.parquet", STEP)
    assert fleet.servers == ("a", "b")
    np.testing.assert_array_equal(fleet.series[0, :, 0], [1, np.nan, 3])


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    path = write(tmp_path / "f.parquet", "")
    with pytest.raises(FleetError, match=r"streamd\[replay\]"):
        read_fleet(path, STEP)


def test_samples_finer_than_a_step_are_averaged(tmp_path: Path) -> None:
    text = "server,time,cpu_user\na,600,1\na,660,2\na,720,6\n"
    fleet = read_fleet(write(tmp_path / "f.csv", text), STEP)
    assert fleet.series[0, 0, 0] == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("server,cpu_user\na,1\n", "expected one of server"),
        ("server,time,cpu_user\na,600\n", r"f\.csv:2: 2 fields"),
        ("server,time,cpu_user\na,600,warm\n", "column cpu_user"),
        ("server,time,cpu_user\na,noon,1\n", "expected epoch seconds or RFC 3339"),
        ("server,time,cpu_user\n", "no rows"),
    ],
)
def test_a_bad_file_is_reported_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(FleetError, match=expected):
        read_fleet(write(tmp_path / "f.csv", text), STEP)


EXPECTED = [[1, 5], [np.nan, np.nan], [3, 7]]
BOM = "\ufeff"


def check_wide(path: Path) -> None:
    """Check that a file gives the fleet of `WIDE`."""
    fleet = read_fleet(path, STEP).select_features(("cpu_user", "mem_used"))
    assert (fleet.servers, fleet.features, fleet.first_step) == (("a", "b"), ("cpu_user", "mem_used"), 2)
    np.testing.assert_array_equal(fleet.series[0], EXPECTED)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["f.csv", "f.csv.gz", "F.CSV"])
def test_a_csv_is_read_whatever_its_encoding(tmp_path: Path, encoding: str, packed: bool, name: str) -> None:
    raw = WIDE.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if packed else raw)
    check_wide(path)


@pytest.mark.parametrize(
    "text",
    [
        BOM + WIDE.replace("server", '"server"', 1),
        WIDE.replace("\n", "\r\n"),
        WIDE.replace("\n", "\r"),
        WIDE.replace(",", ";"),
        WIDE.replace(",", "\t"),
        WIDE.replace(",", ", "),
        WIDE.replace("server,time,cpu_user,mem_used", '"Server", "TIME","CPU_User",Mem_Used '),
        WIDE.replace("server,time", "Machine,Timestamp"),
        "\n\n" + WIDE.replace("\n", "\n\n") + "  \n,,,\n\n",
        WIDE.replace("a,", '"a",').replace("600", '"600"').replace("600", " 600 "),
    ],
    ids=["bom-and-quotes", "crlf", "cr", "semicolons", "tabs", "spaces", "case", "names", "empty-lines", "quotes"],
)
def test_a_csv_is_read_whatever_wrote_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(text.encode())
    check_wide(path)


def test_a_long_table_and_a_mapping_ignore_case(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes((BOM + LONG.replace("feature,value", "Feature,VALUE")).encode())
    check_wide(path)
    path.write_bytes(WIDE.replace("cpu_user", "CPU").encode())
    mapping = parse_mapping(["cpu_user=cpu", "mem_used=MEM_used"])
    np.testing.assert_array_equal(read_fleet(path, STEP, mapping).series[0], EXPECTED)


NOW = 1_763_708_400
UNITS = [(10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")]


@pytest.mark.parametrize(("factor", "unit"), UNITS)
@pytest.mark.parametrize("form", ["{}", "{}.0", '"{}"', " {} ", "{:.6e}"])
def test_times_in_a_finer_unit_are_named_with_their_place(tmp_path: Path, factor: int, unit: str, form: str) -> None:
    text = f"server,time,cpu_user\na,{NOW},1\n\na,{form.format((NOW + 300) * factor)},2\n"
    with pytest.raises(FleetError, match=rf"f\.csv:4: time [0-9.e+]+ looks like {unit}; expected epoch seconds"):
        read_fleet(write(tmp_path / "f.csv", text), STEP)


@pytest.mark.parametrize(("factor", "unit"), UNITS)
def test_a_long_table_in_a_finer_unit_is_named_too(tmp_path: Path, factor: int, unit: str) -> None:
    text = f"host,timestamp,feature,value\na,{NOW * factor},cpu_user,1\n"
    with pytest.raises(FleetError, match=f"looks like {unit}"):
        read_fleet(write(tmp_path / "f.csv.gz", text), STEP)


def write_parquet(path: Path, **columns: Any) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra [replay] is not installed")
    importlib.import_module("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize(("factor", "unit"), UNITS)
def test_parquet_numbers_in_a_finer_unit_are_named(tmp_path: Path, factor: int, unit: str) -> None:
    times = [NOW, NOW * factor]
    path = write_parquet(tmp_path / "f.parquet", server=["a", "a"], time=times, cpu_user=[1.0, 2.0])
    with pytest.raises(FleetError, match=rf"f\.parquet: row 2: time [0-9.e+]+ looks like {unit}"):
        read_fleet(path, STEP)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_parquet_timestamps_have_their_own_unit(tmp_path: Path, unit: str, zone: str | None) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra [replay] is not installed")
    moments = np.array([600, 600, 1200], "datetime64[s]").astype(f"datetime64[{unit}]")
    times = pyarrow.array(moments).cast(pyarrow.timestamp(unit, zone))
    names = pyarrow.array(["a", "b", "a"]).dictionary_encode()
    path = tmp_path / "f.parquet"
    check_wide(write_parquet(path, Machine=names, ts=times, cpu_user=[1.0, 2.0, 3.0], mem_used=[5.0, None, 7.0]))
    wrong = pyarrow.array(np.array([NOW * 1000], "datetime64[s]"))  # milliseconds that were stored as seconds
    with pytest.raises(FleetError, match="row 1: time 1763708400000 looks like milliseconds"):
        read_fleet(write_parquet(path, server=["a"], time=wrong, cpu_user=[1.0]), STEP)


def test_missing_parquet_cells_are_reported_with_their_row(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pyarrow = pytest.importorskip("pyarrow", reason="the extra [replay] is not installed")
    with pytest.raises(FleetError, match="row 2: no server"):
        read_fleet(write_parquet(path, server=["a", None], time=[600, 600], cpu_user=[1.0, 2.0]), STEP)
    for times in ([600, None], pyarrow.array([600, None], pyarrow.timestamp("s")), ["600", None]):
        with pytest.raises(FleetError, match="row 2: no time"):
            read_fleet(write_parquet(path, server=["a", "a"], time=times, cpu_user=[1.0, 2.0]), STEP)
    twice = pyarrow.table([["a"], [600], [1.0], [2.0]], names=["server", "time", "cpu_user", "CPU_USER"])
    importlib.import_module("pyarrow.parquet").write_table(twice, path)
    with pytest.raises(FleetError, match="columns 3 and 4 are both named cpu_user"):
        read_fleet(path, STEP)
    path.write_bytes(b"PAR1 and nothing that follows")
    with pytest.raises(FleetError, match="expected a Parquet file"):
        read_fleet(path, STEP)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"server,time,cpu_user\na,600,1\n\xe9,600,1\n", r"f\.csv:3: .*expected UTF-8"),
        (WIDE.encode("utf-16-le"), r"f\.csv:1: a NUL character; expected UTF-8, or UTF-16"),
        (gzip.compress(WIDE.encode(), mtime=0)[:-9], "expected a whole gzip file"),
        (gzip.compress(b"", mtime=0)[:4], "expected a whole gzip file"),
        (b"PAR1\0\0", "the content is Parquet"),
        (b"PK\x03\x04\0", "a zip archive or a workbook"),
        (b"server,time,cpu_user,cpu_user\na,600,1,2\n", "columns 3 and 4 are both named cpu_user"),
        (b"Time,server,time,cpu_user\n1,a,600,1\n", "columns 1 and 3 are both named Time"),
        (b"server,time,,cpu_user\na,600,1,2\n", "column 3 has no name"),
        (b"server;time;cpu_user\na;600;1,5\n", r"f\.csv:2: column cpu_user is '1,5'.*decimal comma"),
        (b'server,time,cpu_user\n\n"a,600,1\n', r"f\.csv:3: .*expected CSV"),
        (b"server,time,cpu_user\na,600,1\n\n,600,1\n", r"f\.csv:4: no server"),
        (b"server,time,cpu_user\na,600,1\na,,1\n", r"f\.csv:3: no time; expected epoch seconds"),
        (b"server,time,cpu_user\na,-5,1\n", r"f\.csv:2: time -5; expected epoch seconds"),
        (b"server,time,cpu_user\na,inf,1\n", r"f\.csv:2: time inf; expected epoch seconds"),
        (b"server,time,cpu_user\n\na,600,1\na,600,warm\n", r"f\.csv:4: column cpu_user is 'warm'"),
        (b"server,time,cpu_user\na,600,1\na,1763708400,1\n", None),
    ],
)
def test_an_unreadable_csv_is_reported_with_its_place(tmp_path: Path, raw: bytes, expected: str | None) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(raw)
    if expected is None:  # the grid from 1970 to 2025 is large, and one server's still fits
        assert read_fleet(path, STEP).steps == 5_879_027
        return
    with pytest.raises(FleetError, match=expected):
        read_fleet(path, STEP)


def test_a_time_far_from_all_others_is_refused_before_memory_is_allocated(tmp_path: Path) -> None:
    lines = [f"{server},{time},1" for server in range(20) for time in (600, NOW)]
    path = write(tmp_path / "f.csv", "\n".join(["server,time,cpu_user", *lines]))
    with pytest.raises(FleetError, match=f"times from 600 to {NOW} make .* is one of the times wrong"):
        read_fleet(path, STEP)


def test_mapping_names_and_scales_columns(tmp_path: Path) -> None:
    mapping = parse_mapping(["cpu_user=100*cpu_r", "mem_used=mem_u"])
    assert mapping == {"cpu_user": ColumnMapping("cpu_r", 100.0), "mem_used": ColumnMapping("mem_u")}
    path = write(tmp_path / "f.csv", "server,time,cpu_r,mem_u\na,600,0.5,3\n")
    assert read_fleet(path, STEP, mapping).series[0, 0].tolist() == [50, 3]
    with pytest.raises(FleetError, match="no column swap"):
        read_fleet(path, STEP, {"swap_used": ColumnMapping("swap")})
    for entry in ("cpu_user", "cpu_user=x*cpu_r", "=cpu_r"):
        with pytest.raises(FleetError, match="expected FEATURE=COLUMN"):
            parse_mapping([entry])


def test_joined_files_keep_their_own_times() -> None:
    first = RecordedFleet(("a",), ("x",), 10, np.ones((1, 2, 1), dtype=np.float32))
    second = RecordedFleet(("b", "a"), ("y", "x"), 11, np.full((2, 2, 2), 2, dtype=np.float32))
    fleet = join_fleets([first, second])
    assert (fleet.servers, fleet.features, fleet.first_step, fleet.steps) == (("a", "b"), ("x", "y"), 10, 3)
    np.testing.assert_array_equal(fleet.series[0], [[1, np.nan], [2, 2], [2, 2]])


@pytest.fixture(scope="module")
def sample() -> RecordedFleet:
    return read_fleet(ROOT / EXAMPLE_FLEET, STEP)


def test_the_shipped_sample_is_twelve_servers_of_three_days(sample: RecordedFleet) -> None:
    assert sample.series.shape == (12, 3 * 288, 11)
    assert bool(sample.find_rows().all())
    assert (ROOT / EXAMPLE_FLEET).stat().st_size < 3_000_000
    percent = sample.series[:, :, : sample.features.index("net_in")]
    assert 0 <= percent.min() <= percent.max() <= 100


def test_synthetic_servers_stay_within_the_real_range(sample: RecordedFleet) -> None:
    fleet = synthesize(sample, 500, 100)
    pairs = np.indices((100, 500)).reshape(2, -1)
    values = fleet.read_values(pairs[0], pairs[1])
    real = sample.series.reshape(-1, values.shape[1])
    assert (values >= real.min(axis=0)).all()
    assert (values <= real.max(axis=0)).all()
    user, idle = fleet.features.index("cpu_user"), fleet.features.index("cpu_idle")
    assert (values[:, user] + values[:, idle]).max() <= 100.001
    assert len(set(fleet.servers)) == 500
    assert len(np.unique(values[pairs[0] == 0, user])) > 250  # their own phases and scales
    again = synthesize(sample, 500, 100)
    np.testing.assert_array_equal(again.read_values(pairs[0], pairs[1]), values)
