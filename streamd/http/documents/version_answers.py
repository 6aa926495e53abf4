"""The type of the answer of `GET /v1/engines`. `docs/wire.md` has the meaning of each key."""

from typing import Literal

import msgspec

from streamd.http.documents.answers import Count, NodeVersion


class PrecisionVerdict(msgspec.Struct):
    """The verdict of the accuracy gate on one precision; null if it gave none."""

    promotable: bool | None
    reasons: list[str]


class VersionState(msgspec.Struct, kw_only=True):
    """A version of the repository; `problem` says why it cannot be promoted."""

    version: str
    created_at: float | None
    architecture: str | None
    precisions: list[str]
    training_loss: float | None
    training_fleets: list[str]
    gate: dict[str, PrecisionVerdict]
    is_promoted: bool
    is_default: bool
    problem: str | None
    size_bytes: Count


class PromotionState(msgspec.Struct, kw_only=True):
    """A promotion or rollback; null stands for no promoted version."""

    kind: Literal["promote", "rollback"]
    when: float
    who: str
    why: str
    before: str | None
    after: str | None
    passed_over: list[str]


class ClusterChange(msgspec.Struct, kw_only=True):
    """The newest change of a cluster's versions; `reason` says why it stopped, or which nodes it ended without."""

    kind: Literal["promote", "rollback", "candidate", "end-candidate"]
    version: str | None
    phase: Literal["warming", "switching", "done", "stopped"]
    reason: str
    who: str
    why: str
    when: float
    node: str


class ClusterVersions(msgspec.Struct, kw_only=True):
    """The version that all nodes of a cluster serve; null while this node does not know it yet."""

    node: str
    serving: str | None
    digest: str | None
    candidate: str | None
    change: ClusterChange | None
    nodes: list[NodeVersion]


class VersionsAnswer(msgspec.Struct, kw_only=True):
    """All versions, the newest first, what serves, and the promotions and rollbacks, the latest first."""

    serving: str
    previous: str | None
    candidate: str | None
    pinned: bool
    problem: str | None
    versions: list[VersionState]
    history: list[PromotionState]
    cluster: ClusterVersions | msgspec.UnsetType = msgspec.UNSET
