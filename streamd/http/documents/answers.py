"""The types of the answers of the daemon's own calls, as they are in JSON; a test compares real answers with them.

The handlers build the same as dictionaries. In MessagePack, nested lists of numbers are tensors.
"""

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
ForecastFence = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        description=(
            "In a cluster: rises with each owner of the server; 0 while the forecast is not in the log, "
            "so that another one of its row may take its place."
        ),
    ),
]
OriginTime = Annotated[int, msgspec.Meta(description="The time at which the newest row ends, in epoch seconds.")]
TargetValues = list[list[float]]
"""The numbers of one target, `[step][quantile]`."""
UnknownNames = Annotated[
    list[str], msgspec.Meta(description="Targets without a value in any row of the window; their values are null.")
]
Cells = Annotated[list[float | None], msgspec.Meta(description="The value of each feature; null where it is missing.")]


class ErrorAnswer(msgspec.Struct):
    """An error. The code never changes; the message names the thing, its place and what was expected."""

    type: Literal["error"]
    code: str
    message: str


class SampleRejection(msgspec.Struct):
    """A sample that was rejected alone; the others of its body are kept. `index` is its place in the body."""

    index: Count
    code: str
    message: str


class SamplesAnswer(msgspec.Struct):
    """The answer to a body of samples. `errors` has at most 1,000 entries; `rejected` counts all."""

    accepted: Count
    rejected: Count
    errors: list[SampleRejection]


class ForecastAnswer(msgspec.Struct, kw_only=True):
    """The forecast of one server: `values[target][step][quantile]`, in the unit of the target; null if it is unknown.

    In MessagePack an unknown target is NaN.
    """

    type: Literal["forecast"]
    server: str
    origin: OriginTime
    step_seconds: Count
    model: str
    targets: list[str]
    quantiles: list[float]
    values: list[TargetValues | None]
    context: Annotated[Count, msgspec.Meta(description="The rows that the window really had.")]
    fence: ForecastFence | msgspec.UnsetType = msgspec.UNSET
    every: Annotated[int, msgspec.Meta(ge=2, description="Only every such step is sent.")] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    unknown: UnknownNames | msgspec.UnsetType = msgspec.UNSET


class WaitingAnswer(msgspec.Struct):
    """A server without a forecast: `warming` while its window has too few rows, `pending` once it has enough."""

    server: str
    status: Literal["warming", "pending"]
    have: Count
    need: Count


class ServerEntry(msgspec.Struct):
    """A server that reports. The times are origins in epoch seconds, null before the first row or forecast."""

    server: str
    have: Count
    origin: int | None
    last_forecast: int | None


class ServersAnswer(msgspec.Struct):
    """A page of servers, by name; `next` is the cursor of the next page, null on the last one."""

    servers: list[ServerEntry]
    next: str | None
    missing_shards: list[Count] | msgspec.UnsetType = msgspec.UNSET


class WindowAnswer(msgspec.Struct, kw_only=True):
    """The window of a server: `values[row][feature]`, oldest row first."""

    server: str
    step_seconds: Count
    origin: int | None
    have: Count
    features: list[str]
    values: list[Cells]


class HealthAnswer(msgspec.Struct):
    """The answer of a daemon whose event loop runs."""

    status: Literal["alive"]


class PassedOverVersion(msgspec.Struct):
    """A version that should serve and cannot."""

    name: str
    rule: str
    reason: str


DegradedPart = Literal["storage", "workers", "log_away", "clock", "disk", "version", "drained"]
"""Words for what does not work while a daemon can forecast; those after `workers` are of a node of a cluster."""


class ReadyAnswer(msgspec.Struct):
    """The answer of a daemon that can forecast now. `degraded` lists what does not work."""

    status: Literal["ready"]
    degraded: list[DegradedPart] | msgspec.UnsetType = msgspec.UNSET
    passed_over: list[PassedOverVersion] | msgspec.UnsetType = msgspec.UNSET


class NotReadyAnswer(msgspec.Struct):
    """The answer of a daemon that cannot forecast now, with the reason."""

    status: Literal["draining", "joining", "log_away", "no_lane", "starting"]


class NodeVersion(msgspec.Struct, kw_only=True):
    """The version that one node of a cluster serves; `problem` says why not that of the cluster, else it is empty."""

    node: str
    serving: str | None
    candidate: str | None
    state: Literal["warm", "failed", "switched"] | None
    problem: str


class ChangeAnswer(msgspec.Struct, kw_only=True):
    """The answer to a promotion or a rollback: the version that serves, and the previous one.

    In a cluster also what each node serves, and the nodes that the change ended without.
    """

    engine: str
    before: str
    seconds: float
    passed_over: list[PassedOverVersion] | msgspec.UnsetType = msgspec.UNSET
    nodes: list[NodeVersion] | msgspec.UnsetType = msgspec.UNSET
    without: str | msgspec.UnsetType = msgspec.UNSET


class CandidateState(msgspec.Struct, kw_only=True):
    """A candidate, and what became of the rows that were due to it."""

    version: str
    share: float
    shadow: bool
    lanes: Count
    lanes_lost: list[str]
    due: Count
    in_flight: Count
    rows: dict[str, int]


class CandidateAnswer(msgspec.Struct):
    """The answer to the start of a candidate."""

    candidate: CandidateState | None
    nodes: list[NodeVersion] | msgspec.UnsetType = msgspec.UNSET


class CandidateEndAnswer(msgspec.Struct):
    """The answer to the end of a candidate; null if there was none."""

    ended: str | None
