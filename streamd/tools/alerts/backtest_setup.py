"""Makes a backtest from what the command line names: the fleet, the network, the origins and the judgement."""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamd.core.alerts.settings import parse_duration_seconds
from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError
from streamd.inference.api.inference import InferenceEngine
from streamd.repository.versions import EngineVersion
from streamd.tools.alerts.backtest import BacktestPlan
from streamd.tools.alerts.rule_file import RuleFile
from streamd.tools.fleets.errors import FleetError
from streamd.tools.fleets.fleet import RecordedFleet, join_fleets
from streamd.tools.fleets.readers import parse_mapping, read_fleet

BATCH_ROWS = 32
"""Windows that run at once. More are not faster on a CPU."""


def read_recorded_fleet(files: Sequence[Path], columns: Sequence[str], contract: ModelContract) -> RecordedFleet:
    """Read the files as one fleet with the model's features on its grid; raises `ConfigError`."""
    try:
        mapping = parse_mapping(columns)
        fleets = [read_fleet(path, contract.step_seconds, mapping) for path in files]
        return join_fleets(fleets).select_features(contract.features)
    except FleetError as exc:
        raise ConfigError(str(exc)) from exc


def open_network(version: EngineVersion, backend: str, threads: int | None) -> InferenceEngine:
    """Open the network of a version; raises `BackendUnavailableError`."""
    return InferenceEngine.open(version.path, backend=backend, threads=threads, buckets=(BATCH_ROWS,))


def make_backtest_plan(
    args: argparse.Namespace, fleet: RecordedFleet, contract: ModelContract, settings: RuleFile
) -> BacktestPlan:
    """Make the plan of a backtest; raises `ConfigError` if there is no origin in the fleet's time."""
    begin = _find_origin("--from", args.begin, fleet, contract, contract.context_length)
    end = _find_origin("--to", args.end, fleet, contract, fleet.steps + 1)
    first, stop = max(begin, 1), min(end, fleet.steps + 1)
    if first >= stop:
        first_time, last_time = (_format_time(fleet, contract, at) for at in (0, fleet.steps))
        raise ConfigError(
            f"no origin to forecast from: the fleet has rows from {first_time} to {last_time}, expected more than "
            f"{contract.context_length} steps of {contract.step_seconds} s, or --from and --to with rows between them"
        )
    return BacktestPlan(
        first=first,
        stop=stop,
        every=args.every,
        min_context_rows=settings.min_context_rows,
        tolerance_seconds=_parse_seconds("--tolerance", args.tolerance),
        gap_seconds=_parse_seconds("--gap", args.gap),
        shortest_seconds=_parse_seconds("--shortest", args.shortest),
        silent_after_seconds=settings.alerts.silent_after_seconds,
    )


def require_windows(windows: int, plan: BacktestPlan, config: Path) -> None:
    """Raise `ConfigError` if no window has rows enough for a forecast."""
    if not windows:
        raise ConfigError(
            f"no window of the fleet at these times has {plan.min_context_rows} rows, which {config} demands "
            "(windows.min_context_rows)"
        )


def describe_backtest(
    version: EngineVersion, fleet: RecordedFleet, plan: BacktestPlan, forecasts: int
) -> dict[str, Any]:
    """Return what was replayed, as plain values."""
    return {
        "engine": version.name,
        "servers": len(fleet.servers),
        "forecasts": forecasts,
        "from": _format_time(fleet, version.contract, plan.first),
        "to": _format_time(fleet, version.contract, plan.stop - 1),
        "every": plan.every,
        "tolerance_seconds": plan.tolerance_seconds,
        "gap_seconds": plan.gap_seconds,
        "shortest_seconds": plan.shortest_seconds,
    }


def _find_origin(flag: str, text: str | None, fleet: RecordedFleet, contract: ModelContract, default: int) -> int:
    """Return the first origin at or after a time, as an index of the fleet's steps; raises `ConfigError`."""
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ConfigError(f"{flag} is {text!r}, expected epoch seconds or RFC 3339") from None
        # As in a fleet's file, a time without an offset is UTC, never in this machine's time zone.
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= seconds < 1e11:
        raise ConfigError(f"{flag} is {text!r}, expected epoch seconds or RFC 3339, from 1970 on")
    return int(-(-seconds // contract.step_seconds)) - fleet.first_step


def _parse_seconds(flag: str, text: str) -> float:
    try:
        return parse_duration_seconds(text if text[-1:].isalpha() else float(text))
    except ValueError:
        raise ConfigError(f'{flag} is {text!r}, expected seconds, or a duration such as "30m"') from None


def _format_time(fleet: RecordedFleet, contract: ModelContract, index: int) -> str:
    return datetime.fromtimestamp((fleet.first_step + index) * contract.step_seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")
