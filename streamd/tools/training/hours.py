"""Makes five-minute series of hourly ones: smooth, with the recorded mean of each hour.

This module adds no detail that was not recorded; noise within the hour is for the caller to add.
"""

from dataclasses import replace

import numpy as np

from streamd.tools.training.fleet import TrainingFleet

HOURLY_STEP_SECONDS = 3600
REFINED_STEP_SECONDS = 300
REFINED = "_5min"
"""The end of the name of a fleet that was made of hours."""


def interpolate_hours(hourly: np.ndarray, parts: int = 12) -> np.ndarray:
    """Return `(..., hour * parts)` from hourly means `(..., hour)`: means of `parts` equal spans of each hour, float32.

    1. The value at the edge between two hours is the mean of both, limited so that 2 cannot go below zero or, if hours
       are negative, below the least hour; beside a missing hour it is the value of the known one.
    2. Within an hour the values follow the parabola through both edges whose mean is that of the hour.

    So the mean of an hour is kept, rates and counts are never negative, and a constant stays constant. A missing hour
    (NaN) stays missing.
    """
    means = np.asarray(hourly, np.float64)
    known = ~np.isnan(means)
    floor = np.min(np.where(known, means, 0.0), axis=-1, keepdims=True, initial=0.0)
    above = np.where(known, means - floor, np.nan)
    before, after = above[..., :-1], above[..., 1:]
    # The mean of two known hours, but at most three times the lower one: then a parabola stays above 0.
    between = np.minimum((before + after) / 2, 3 * np.minimum(before, after))
    left = np.concatenate([above[..., :1], np.where(np.isnan(between), after, between)], axis=-1)
    right = np.concatenate([np.where(np.isnan(between), before, between), above[..., -1:]], axis=-1)
    # The integral of the parabola from the beginning of the hour to its share t: left t + b t^2 + c t^3.
    b, c = 3 * above - 2 * left - right, left + right - 2 * above
    t = np.linspace(0.0, 1.0, parts + 1)
    integral = left[..., None] * t + b[..., None] * t**2 + c[..., None] * t**3
    fine = np.diff(integral, axis=-1) * parts + floor[..., None]
    return fine.reshape(*means.shape[:-1], -1).astype(np.float32)


def add_refined_fleets(fleets: list[TrainingFleet]) -> list[TrainingFleet]:
    """Return the fleets, and behind them each hourly one with steps of five minutes, unless it is there already."""
    names = {fleet.name for fleet in fleets}
    hourly = [fleet for fleet in fleets if fleet.step_seconds == HOURLY_STEP_SECONDS]
    return fleets + [refine_fleet(fleet) for fleet in hourly if fleet.name + REFINED not in names]


def refine_fleet(fleet: TrainingFleet) -> TrainingFleet:
    """Return an hourly fleet with steps of five minutes, its name with `REFINED` behind it.

    Raises `ValueError` if the fleet is not hourly.
    """
    if fleet.step_seconds != HOURLY_STEP_SECONDS:
        raise ValueError(f"fleet {fleet.name!r} has steps of {fleet.step_seconds} s, expected {HOURLY_STEP_SECONDS}")
    parts = HOURLY_STEP_SECONDS // REFINED_STEP_SECONDS
    fine = interpolate_hours(fleet.values.transpose(0, 2, 1), parts).transpose(0, 2, 1)
    return replace(
        fleet,
        name=fleet.name + REFINED,
        values=np.ascontiguousarray(fine),
        step_seconds=REFINED_STEP_SECONDS,
        splits={split: (first * parts, last * parts) for split, (first, last) in fleet.splits.items()},
    )
