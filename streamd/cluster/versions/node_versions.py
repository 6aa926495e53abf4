"""The versions of one node, as the changes of a cluster need them: an interface that `server/cluster/` implements."""

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from streamd.core.cluster.rollout import CandidateRef, VersionChange, VersionPlan, VersionRef


class PreparedChange(Protocol):
    """A change that is warm at this node."""

    async def switch(self) -> None:
        """Do it."""
        ...


class NodeVersions(Protocol):
    """The versions of this node."""

    @property
    def serving(self) -> VersionRef | None:
        """The version that serves here; `None` before the first one is loaded."""
        ...

    @property
    def candidate(self) -> CandidateRef | None:
        """The candidate here, without its digest."""
        ...

    async def identify(self, version: str) -> VersionRef:
        """Return a version that may be promoted; raises `StreamdError`."""
        ...

    async def find_rollback_target(self) -> str:
        """Return the version before the one that serves, by the record of this node; raises `StreamdError`."""
        ...

    def prepare(self, change: VersionChange) -> AbstractAsyncContextManager[PreparedChange]:
        """Load and warm what a change wants; it is discarded at the end, unless it was switched to.

        Raises `StreamdError` if it cannot be loaded, or its digest is another one.
        """
        ...

    async def list_versions(self) -> dict[str, Any]:
        """Return the answer to `GET /v1/engines` of this node."""
        ...

    def describe_candidate(self) -> dict[str, Any] | None:
        """Return what the status shows of the candidate here."""
        ...

    def note_plan(self, plan: VersionPlan) -> None:
        """Note what the cluster serves, so that nothing else is selected here."""
        ...
