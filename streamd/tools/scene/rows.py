"""Checks the rows of one server in the steps of a scene: gaps, missing features, impossible values. Pure."""

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from streamd.tools.loadtest.daemon import ServerWindow

PERCENT_FEATURES = ("cpu_user", "cpu_sys", "cpu_iowait", "cpu_idle", "java_cpu", "mem_used", "swap_used", "disk_usage")
LARGEST_PERCENT = 105.0
"""The largest plausible percentage. The kernel counts a tick when it ends, so over a few seconds the modes of a core
sum to up to 1.03 seconds per second."""
LARGEST_RATE = 1e12
SETTLED_SHARE = 0.5
"""An agent gives a feature if at least this share of its rows has it."""

SceneRow = Mapping[str, float]
"""The features of one step that have a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCheck:
    """The rows of one server, from its first complete row to the last step of the scene."""

    server: str
    rows: dict[int, SceneRow]
    """The rows by step."""
    features: list[str]
    """The features that this agent gives."""
    first_step: int | None
    """The first step whose row has all of them; `None` if there is no row."""
    last_step: int
    missing: list[int] = field(default_factory=list)
    """Steps without a row."""
    incomplete: dict[int, list[str]] = field(default_factory=dict)
    """Steps whose row lacks features."""
    absurd: list[str] = field(default_factory=list)
    """Impossible values, each with its step."""

    @property
    def expected(self) -> int:
        """The number of rows that a server has if nothing was lost."""
        return 0 if self.first_step is None else self.last_step - self.first_step + 1

    @property
    def is_whole(self) -> bool:
        """Whether there are rows, and nothing is missing or absurd."""
        return self.expected > 0 and not (self.missing or self.incomplete or self.absurd)


def read_rows(window: ServerWindow) -> dict[int, SceneRow]:
    """Return the rows of a window by step, without those that have no value."""
    newest = round(window.origin / window.step_seconds) - 1
    oldest = newest - len(window.values) + 1
    rows = {
        oldest + number: {name: value for name, value in zip(window.features, values, strict=True) if value is not None}
        for number, values in enumerate(window.values)
    }
    return {step: row for step, row in rows.items() if row}


def check_rows(server: str, rows: Mapping[int, SceneRow], last_step: int, unmeasured: Container[int] = ()) -> RowCheck:
    """Find gaps and impossible values in the rows up to `last_step`.

    The steps in `unmeasured` do not count as gaps: the agent itself lacks samples of them.
    """
    rows = {step: row for step, row in sorted(rows.items()) if step <= last_step}
    counts = Counter(name for row in rows.values() for name in row)
    features = [name for name, count in counts.items() if count >= SETTLED_SHARE * len(rows)]
    first = next((step for step, row in rows.items() if row.keys() >= set(features)), None)
    steps = [] if first is None else [step for step in range(first, last_step + 1) if step not in unmeasured]
    lacks = {step: sorted(set(features) - rows[step].keys()) for step in steps if step in rows}
    return RowCheck(
        server=server,
        rows=dict(rows),
        features=features,
        first_step=first,
        last_step=last_step,
        missing=[step for step in steps if step not in rows],
        incomplete={step: names for step, names in lacks.items() if names},
        absurd=[
            f"{name} is {value:g} in step {step}" for step, row in rows.items() for name, value in _find_absurd(row)
        ],
    )


def find_lost_values(before: Mapping[int, SceneRow], after: Mapping[int, SceneRow]) -> list[int]:
    """Return the steps that have lost a value. A different value is no loss, because late samples amend a row."""
    return [step for step, row in before.items() if row.keys() - after.get(step, {}).keys()]


def _find_absurd(row: SceneRow) -> list[tuple[str, float]]:
    return [
        (name, value)
        for name, value in row.items()
        if not 0 <= value <= (LARGEST_PERCENT if name in PERCENT_FEATURES else LARGEST_RATE)
    ]
