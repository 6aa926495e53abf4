"""The type of the answer of `/v1/status`. `docs/wire.md` has the meaning of each key."""

from typing import Any

import msgspec

from streamd.http.documents.answers import CandidateState, Count, PassedOverVersion


class ContractState(msgspec.Struct, kw_only=True):
    """The contract of the model, and what the windows need."""

    features: list[str]
    targets: list[str]
    units: dict[str, str]
    quantiles: list[float]
    context_length: Count
    horizon: Count
    step_seconds: Count
    memory_length: Count
    need: Count
    late_steps: Count


class LaneState(msgspec.Struct, kw_only=True):
    """A lane and what it has run."""

    name: str
    device: str
    details: dict[str, Any]
    batches: Count
    windows: Count
    failures: Count
    busy_seconds: float


class FallbackState(msgspec.Struct):
    """A backend that was passed over."""

    backend: str
    reason: str


class BatchReasonState(msgspec.Struct):
    """Batches of one reason since start, their windows, and the sum of the delays of their longest waiting windows."""

    batches: Count
    windows: Count
    queue_delay_seconds: float


class BatchesState(msgspec.Struct):
    """Batches since start by the reason for their size and by the upper bound of their size."""

    by_reason: dict[str, BatchReasonState]
    by_size: dict[str, int]
    queue_delay_seconds: float


class MemoryState(msgspec.Struct):
    """The memory that is not swapped out, mapped state included."""

    resident_bytes: Count


class PredictState(msgspec.Struct):
    """Calls that are not answered, their windows that wait, and windows whose caller had left."""

    calls: Count
    waiting: Count
    dropped: Count


class SamplesState(msgspec.Struct):
    """Samples since start; those rejected, and bodies refused as a whole, by error code."""

    accepted: Count
    rejected: dict[str, int]
    refused_frames: dict[str, int]
    ignored_features: Count


class SubscribersState(msgspec.Struct):
    """The number of subscribers, the forecasts that wait for them, and those that they missed."""

    now: Count
    waiting: Count
    dropped: Count


class AccessReloadCounts(msgspec.Struct):
    """Changes of the files of tokens and of TLS."""

    applied: Count
    rejected: Count


class AccessState(msgspec.Struct):
    """The access: `open` if callers need no token; the state of the files of tokens and of TLS."""

    open: bool
    tokens: Count
    reloads: AccessReloadCounts
    rejected_files: list[str]


class StatusAnswer(msgspec.Struct, kw_only=True):
    """The status: what is loaded and how it does."""

    engine: str
    backend: str | None
    precision: str | None
    fallbacks: list[FallbackState]
    backend_details: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    architecture: str | msgspec.UnsetType = msgspec.UNSET
    bucket_ms: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    previous: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    keep_warm_seconds: float | msgspec.UnsetType = msgspec.UNSET
    reload: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    passed_over: list[PassedOverVersion] | msgspec.UnsetType = msgspec.UNSET
    ready: bool
    draining: bool
    workers_away: list[int]
    uptime_seconds: float
    contract: ContractState
    lanes: list[LaneState]
    lanes_lost: list[str]
    candidate: CandidateState | None
    servers: Count
    capacity: Count
    ahead: dict[str, Any]
    due: Count
    waiting: Count
    in_flight: Count
    batches: BatchesState
    stall: Any
    predict: PredictState
    rows: dict[str, int]
    samples: SamplesState
    agents: dict[str, Any]
    subscribers: SubscribersState
    accuracy: dict[str, Any]
    accuracy_history: dict[str, Any]
    alerts: dict[str, Any] | None
    access: AccessState
    state_folder: dict[str, Any]
    memory: MemoryState
    device_restarts: Count
    recovered: dict[str, Any]
    cluster: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
