"""The part of an accuracy history that a caller requests by query parameters, checked against the contract.

Pure functions; `routes/accuracy.py` reads the history.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from multidict import MultiMapping

from streamd.core.contract import ModelContract
from streamd.core.errors import InvalidSelectionError
from streamd.core.selection import make_forecast_slice
from streamd.http.query_values import collect_values, split_list

DEFAULT_FORECASTS = 16
MAX_FORECASTS = 100
"""Forecasts in one answer, and forecasts whose scores are in it."""

MAX_STEP = 2**53
"""No step of the grid is so high; SQLite takes 64 bits."""

_SINGLE_PARAMETERS = ("every", "limit", "since", "until")
"""Parameters that may be given once."""

_PARAMETERS = ("server", "targets", *_SINGLE_PARAMETERS)


@dataclass(frozen=True, kw_only=True)
class HistoryChoice:
    """Targets by index, every n-th step, the first and last step of the forecasts' newest rows, and their number."""

    targets: tuple[int, ...]
    every: int
    first: int
    last: int
    limit: int


def parse_history_query(contract: ModelContract, query: MultiMapping[str]) -> HistoryChoice:
    """Parse query parameters; raises `InvalidSelectionError` naming the parameter."""
    values = collect_values(query.items(), _PARAMETERS, _SINGLE_PARAMETERS)
    targets = split_list(values["targets"], contract.targets) if "targets" in values else None
    every = _parse_count(query, "every", 1, contract.horizon)
    seconds = contract.step_seconds
    # An origin is the end of the step of the newest row.
    return HistoryChoice(
        targets=make_forecast_slice(contract, targets, None).targets,
        every=every,
        first=_parse_step(query, "since", 0, lambda time: math.ceil(time / seconds) - 1),
        last=_parse_step(query, "until", MAX_STEP, lambda time: math.floor(time / seconds) - 1),
        limit=_parse_count(query, "limit", DEFAULT_FORECASTS, MAX_FORECASTS),
    )


def _parse_count(query: MultiMapping[str], name: str, default: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise InvalidSelectionError(f"{name} is {text[:32]!r}, expected 1 to {most}")
    return int(text)


def _parse_step(query: MultiMapping[str], name: str, default: int, convert: Callable[[float], int]) -> int:
    text = query.get(name)
    if text is None:
        return default
    time = _parse_time(text[:64])
    if time is None or not 0 <= time < MAX_STEP:
        raise InvalidSelectionError(
            f"{name} is {text[:64]!r}, expected epoch seconds from 1970 on, or RFC 3339 with an offset"
        )
    return convert(time)


def _parse_time(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None
