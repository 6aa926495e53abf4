"""Decides whether the lanes make progress: whether waiting work still ends, or is stuck.

Observes counts and restarts nothing. The caller reports a stall to the process supervisor (systemd's watchdog).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressLimits:
    """The times after which work counts as stuck; each is longer than what the lanes' own supervision takes."""

    batch_seconds: float = 60.0
    """With lanes that serve: the longest time in which no batch ends although windows wait or run."""
    replace_seconds: float = 300.0
    """Without lanes, while threads of removed lanes still hang: the longest wait for a lane that replaces them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneActivity:
    """One observation of the lanes; all values are counts."""

    steps: int
    """A number that changes whenever a batch ends or a lane is added or removed."""
    pending: int
    """The windows that wait or run and that may run now; 0 while something else holds them back, as a full disk."""
    lanes: int
    """The lanes that serve."""
    hanging: int = 0
    """The removed lanes whose threads have not ended."""


class StallDetector:
    """Finds work that is stuck, from regular observations. `now` is in monotonic seconds everywhere.

    The clock of a stall starts again with each step, and whenever nothing is pending. Work is stuck

    1. if lanes serve, windows are pending, and no step came for `batch_seconds`: a lane that hangs would have been
       removed before, so its supervision or the dispatch has failed;
    2. if no lane serves, threads of removed lanes still hang, windows are pending, and no step came for
       `replace_seconds`: only the end of the process ends such threads and frees their device.

    It is not stuck while no lane serves and no thread hangs: the lanes failed with errors, are rebuilt, and a restart
    would only end the taking of samples.
    """

    def __init__(self, now: float) -> None:
        self.since = now
        """The latest moment at which there was a step, or nothing to do."""
        self.reason = ""
        """The reason why work is stuck; empty while it is not."""
        self._steps: int | None = None

    def observe(self, activity: LaneActivity, limits: ProgressLimits, now: float, paused_seconds: float = 0.0) -> bool:
        """Take an observation; returns whether work is stuck.

        `limits` are those of the version that serves now; `paused_seconds` is the part of the time from `since` to
        `now` in which the process did not run.
        """
        if activity.steps != self._steps or not activity.pending or now < self.since:
            self._steps, self.since, self.reason = activity.steps, now, ""
            return False
        waited = now - self.since - paused_seconds
        self.reason = _explain_stall(activity, limits, waited)
        return bool(self.reason)


def _explain_stall(activity: LaneActivity, limits: ProgressLimits, waited: float) -> str:
    windows = f"{activity.pending} windows wait or run"
    if activity.lanes and waited > limits.batch_seconds:
        return f"{windows}, and none of {activity.lanes} lanes ended a batch for {waited:.0f} s"
    if not activity.lanes and activity.hanging and waited > limits.replace_seconds:
        return f"{windows}, and {activity.hanging} hanging lanes were not replaced for {waited:.0f} s"
    return ""
