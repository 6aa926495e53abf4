"""Alert rules on real servers: how many incidents they warn of, how early, and how often they are wrong.

For each series of a set, the threshold is a quantile of its own values on the first days; the rules are judged once, on
the last days, which no network was trained on, by `streamd alerts backtest`'s own code. Beside them stand a plain
threshold on the last value and straight lines. Incidents are crossings of the thresholds: the sets have no labels of
real ones. Not measured: real outages, thresholds that people chose, slow trends (a file system that fills), the daemon.

    python -m benchmarks.alert_backtest --data DATA --output benchmarks/results/alert_backtest.json
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from streamd.core.alerts.rules import AlertRule, bind_alert_rules
from streamd.core.alerts.settings import AlertSettings
from streamd.core.contract import ModelContract
from streamd.repository.versions import EngineRepository
from streamd.tools.alerts.backtest import AlertBacktest, BacktestPlan
from streamd.tools.alerts.backtest_setup import open_network
from streamd.tools.alerts.forecaster import FleetForecaster
from streamd.tools.alerts.methods import FORECAST
from streamd.tools.alerts.report import ScoreGroup, group_scores
from streamd.tools.engine.progress import Progress
from streamd.tools.fleets.fleet import RecordedFleet
from streamd.tools.fleets.readers import parse_mapping, read_fleet

DAY_STEPS = 288
LEVELS = {"daily": 0.95, "rare": 0.99}
"""The quantile of a series' first days that is its threshold: reached on most days, or on few."""

QUANTILES = (0.25, 0.5, 0.75, 0.9)
WITHIN = ("1h", "2h", "4h", "8h")
DEFAULT = (0.5, "2h", 2)
"""The quantile, `within` and `for` from which one is changed at a time to see what it trades."""

COUNTS = (1, 2, 4)
RULES_AT_ONCE = 100
"""The most that settings may have."""

_SMD = [
    *("cpu_user=100*cpu_r", "cpu_iowait=100*disk_wa", "mem_used=100*mem_u", "swap_used=100*so"),
    *("disk_usage=100*disk_u", "net_in=eth1_fi", "net_out=eth1_fo", "back_close_wait=tcp_tw"),
    *("front_close_wait=curr_estab", "load_average=load_1"),
]
_ASD = [
    *("cpu_user=f07", "mem_used=f09", "net_in=f11", "net_out=f13", "load_average=f19", "cpu_sys=f01"),
    *("cpu_iowait=f04", "cpu_idle=f05", "java_cpu=f06", "swap_used=f08", "disk_usage=f10", "back_close_wait=f15"),
    *("front_close_wait=f17", "uptime=f18"),
]


@dataclass(frozen=True, kw_only=True)
class RecordedSet:
    """A recorded set: its file, the columns of the features, the targets with rules, and the days."""

    file: str
    columns: list[str]
    targets: tuple[str, ...]
    threshold_days: int
    """The first days, from which thresholds are."""
    test_days: int
    """The last days, on which the rules are judged."""
    about: str


SETS = {
    "smd": RecordedSet(
        file="smd_5min.parquet",
        columns=_SMD,
        targets=("cpu_user", "load_average", "mem_used", "net_in", "net_out", "front_close_wait"),
        threshold_days=18,
        test_days=6,
        about="15 servers whose first 18 days the network was trained on; the last 6 of 27 days are new to it",
    ),
    "asd": RecordedSet(
        file="asd_5min.parquet",
        columns=_ASD,
        targets=("cpu_user", "mem_used", "net_in", "net_out", "load_average"),
        threshold_days=28,
        test_days=6,
        about="9 servers whose first 28 days the network was trained on; the last 6 of 38 days are new to it",
    ),
    "azure": RecordedSet(
        file="azure_vm_v2.parquet",
        columns=["cpu_user=avg_cpu"],
        targets=("cpu_user",),
        threshold_days=15,
        test_days=6,
        about="7 virtual machines, CPU alone, whose first 20 days the network was trained on; the last 6 of 30 are new",
    ),
}


def make_tables(fleet: RecordedFleet, recorded: RecordedSet, level: float) -> dict[str, dict[str, Any]]:
    """Return the part of a rule that its series decides, for each series that has a threshold.

    A series has none if more than twice as many of its first values reach the quantile as should: it is flat there.
    """
    tables = {}
    for target, server in product(recorded.targets, range(len(fleet.servers))):
        values = fleet.series[server, : recorded.threshold_days * DAY_STEPS, fleet.features.index(target)]
        values = values[np.isfinite(values)]
        threshold = float(np.quantile(values, level)) if len(values) else 0.0
        if len(values) and (values >= np.float32(threshold)).mean() <= 2 * (1 - level):
            name = f"{target}.{server}"
            tables[name] = {"target": target, "above": threshold, "servers": [fleet.servers[server]]}
    return tables


def list_variants() -> Iterator[tuple[float, str, int]]:
    """Yield the quantile, `within` and `for` of each variant of the rules."""
    yield from product(QUANTILES, WITHIN, (DEFAULT[2],))
    yield from ((DEFAULT[0], DEFAULT[1], count) for count in COUNTS if count != DEFAULT[2])


def make_rules(fleet: RecordedFleet, recorded: RecordedSet, contract: ModelContract) -> Iterator[AlertRule]:
    """Yield a rule for each series, level and variant, labelled by the latter two."""
    for (level_name, level), (quantile, within, count) in product(LEVELS.items(), list_variants()):
        case = f"{level_name} quantile={quantile:g} within={within} for={count}"
        more = {"quantile": quantile, "within": within, "for": count, "labels": {"case": case}}
        tables = [(name, {**table, **more}) for name, table in make_tables(fleet, recorded, level).items()]
        for begin in range(0, len(tables), RULES_AT_ONCE):
            yield from bind_alert_rules(AlertSettings(rules=dict(tables[begin : begin + RULES_AT_ONCE])), contract)


def measure_set(
    name: str, data: Path, engines: Path, engine: str | None, first_day: int | None, last_day: int | None
) -> dict[str, Any]:
    """Replay the last days of a set, and return the scores of each case."""
    recorded = SETS[name]
    repository = EngineRepository(engines)
    version = repository.load(engine) if engine else repository.choose()
    contract = version.contract
    fleet = read_fleet(data / recorded.file, contract.step_seconds, parse_mapping(recorded.columns))
    first = fleet.steps - recorded.test_days * DAY_STEPS if first_day is None else first_day * DAY_STEPS
    plan = BacktestPlan(
        first=first,
        stop=fleet.steps + 1 if last_day is None else last_day * DAY_STEPS,
        min_context_rows=48,
        tolerance_seconds=1_800.0,
        gap_seconds=3_600.0,
        shortest_seconds=900.0,
        silent_after_seconds=3_600.0,
    )
    rules = list(make_rules(fleet, recorded, contract))
    with open_network(version, "auto", None) as network:
        forecaster = FleetForecaster(fleet, contract, lambda inputs: network(inputs)["predictions"])
        backtest = AlertBacktest(forecaster, rules, plan)
        with Progress().start_job(name, backtest.windows) as job:
            scores = backtest.run(job.advance_to)
    groups = group_scores(scores, "case")
    return {
        "about": recorded.about,
        "engine": version.name,
        "servers": len(fleet.servers),
        "series": {level: len(make_tables(fleet, recorded, value)) for level, value in LEVELS.items()},
        "forecasts": backtest.windows,
        "cases": {group.name: _describe(group) for group in groups},
    }


def _describe(group: ScoreGroup) -> Mapping[str, Any]:
    """Return the scores; those of the simple ways, which have no quantile, only beside the median."""
    found = group.to_dict()
    methods = found["methods"] if f"quantile={DEFAULT[0]:g}" in group.name else {FORECAST: found["methods"][FORECAST]}
    rounded = {
        name: {key: round(value, 4) if isinstance(value, float) else value for key, value in scores.items()}
        for name, scores in methods.items()
    }
    return {"rules": len(group.rules), **rounded, "ranges": found["ranges"]}


def main() -> int:
    """Measure the sets and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--engines", type=Path, default=Path("engines"), help="folder of versions [default: engines]")
    parser.add_argument("--engine", help="version [default: the one that serves]")
    parser.add_argument("--set", action="append", choices=sorted(SETS), help="set to replay [default: all]")
    parser.add_argument("--first-day", type=int, help="first day, to try settings on other days [default: test days]")
    parser.add_argument("--last-day", type=int, help="day before which to end [default: test days]")
    parser.add_argument("--output", type=Path, help="file to write [default: standard output]")
    args = parser.parse_args()
    days = (args.first_day, args.last_day)
    results = {name: measure_set(name, args.data, args.engines, args.engine, *days) for name in args.set or SETS}
    text = json.dumps({"command": "python -m benchmarks.alert_backtest", "sets": results}, indent=1) + "\n"
    if args.output is None:
        sys.stdout.write(text)
    else:
        args.output.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
