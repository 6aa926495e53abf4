#!/usr/bin/env python3
"""Make `examples/fleet/servers.csv.gz` from a copy of the Server Machine Dataset.

Reads `smd_5min.parquet` (columns machine, ts and the 38 metrics of the dataset, means of five minutes) and writes the
same bytes each time. Needs pyarrow: `pip install 'streamd[replay]'`. `examples/fleet/README.md` describes the columns
and their scales.
"""

import argparse
import gzip
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SERVERS = (
    "machine-1-2",
    "machine-1-3",
    "machine-1-4",
    "machine-1-7",
    "machine-1-8",
    "machine-2-1",
    "machine-2-3",
    "machine-2-4",
    "machine-2-5",
    "machine-3-3",
    "machine-3-4",
    "machine-3-5",
)
START_SECONDS = 1_580_083_200
"""2020-01-27 00:00 UTC, where the test split begins: the default model was not trained on the days after it."""
DAYS = 3
STEP_SECONDS = 300

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Feature:
    """A column of the sample."""

    column: str
    """The column of the dataset."""
    digits: int
    """The decimals that are kept."""
    scale: Callable[[Values], Values]


def _to_percent(values: Values) -> Values:
    return values * 100.0


def _to_percent_left(values: Values) -> Values:
    return (1.0 - values) * 100.0


def _keep(values: Values) -> Values:
    return values


FEATURES = {
    "cpu_user": Feature("cpu_r", 3, _to_percent),
    "cpu_iowait": Feature("disk_wa", 3, _to_percent),
    "cpu_idle": Feature("cpu_r", 3, _to_percent_left),
    "mem_used": Feature("mem_u", 3, _to_percent),
    "swap_used": Feature("so", 3, _to_percent),
    "disk_usage": Feature("disk_u", 3, _to_percent),
    "net_in": Feature("eth1_fi", 6, _keep),
    "net_out": Feature("eth1_fo", 6, _keep),
    "back_close_wait": Feature("tcp_tw", 6, _keep),
    "front_close_wait": Feature("curr_estab", 6, _keep),
    "load_average": Feature("load_1", 6, _keep),
}
"""By name. The dataset has six digits. Features that it lacks (cpu_sys, java_cpu, uptime) are left out."""


def main() -> int:
    """Write the sample and print its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("source", type=Path, help="the dataset, smd_5min.parquet")
    parser.add_argument(
        "--out", type=Path, default=Path("examples/fleet/servers.csv.gz"), help="file to write [default: %(default)s]"
    )
    args = parser.parse_args()
    text = make_sample(args.source)
    with args.out.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(text.encode())
    print(f"{args.out}: {text.count(chr(10)) - 1:,} rows, {args.out.stat().st_size:,} bytes")
    return 0


def make_sample(source: Path) -> str:
    """Make the sample as CSV, by time and then by server: the order in which a fleet reports."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(source)
    columns: dict[str, NDArray[Any]] = {name: table.column(name).to_numpy() for name in table.column_names}
    inside = (columns["ts"] >= START_SECONDS) & (columns["ts"] < START_SECONDS + DAYS * 86_400)
    rows = np.nonzero(inside & np.isin(columns["machine"].astype(str), SERVERS))[0]
    rows = rows[np.lexsort((columns["machine"][rows].astype(str), columns["ts"][rows]))]
    texts = [_format_values(columns[one.column][rows], one) for one in FEATURES.values()]
    out = io.StringIO()
    out.write(",".join(["server", "time", *FEATURES]) + "\n")
    keys = zip(columns["machine"][rows], columns["ts"][rows], strict=True)
    for (server, time), *values in zip(keys, *texts, strict=True):
        out.write(",".join([server, str(time), *values]) + "\n")
    return out.getvalue()


def _format_values(values: NDArray[Any], feature: Feature) -> list[str]:
    scaled = np.round(feature.scale(values.astype(np.float64)), feature.digits)
    return [f"{value:.{feature.digits}f}".rstrip("0").rstrip(".") for value in scaled]


if __name__ == "__main__":
    sys.exit(main())
