"""The versions of this node, as the changes of a cluster need them: adapts its `VersionControl`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from streamd.cluster.versions.node_versions import PreparedChange
from streamd.core.cluster.rollout import CandidateRef, VersionChange, VersionChangeKind, VersionPlan, VersionRef
from streamd.core.errors import ReloadError, RepositoryError
from streamd.repository.promotion import Promoter
from streamd.runtime.service import Service
from streamd.server.version_control.control import VersionControl
from streamd.server.version_control.prepared import PreparedVersion, WriteRecord, digest_versions
from streamd.server.version_control.specs import Selection


class ControlledVersions:
    """The versions of one node (`NodeVersions`)."""

    def __init__(self, control: VersionControl, service: Service) -> None:
        self._control = control
        self._service = service

    @property
    def serving(self) -> VersionRef | None:
        """The version that serves here; `None` before the first one is loaded."""
        digest = self._control.serving_digest
        return None if digest is None else VersionRef(self._service.model, digest)

    @property
    def candidate(self) -> CandidateRef | None:
        """The candidate here, without its digest."""
        candidate = self._control.candidate
        if candidate is None:
            return None
        assignment = candidate.assignment
        return CandidateRef(VersionRef(candidate.name, ""), assignment.share, assignment.shadow)

    async def identify(self, version: str) -> VersionRef:
        """Return a version that may be promoted; raises `RepositoryError`."""
        return VersionRef(version, await self._control.folders.digest_files(version))

    async def find_rollback_target(self) -> str:
        """Return the version before the one that serves, by the record of this node."""
        target, _ = await self._control.folders.find_rollback_target()
        return target

    @asynccontextmanager
    async def prepare(self, change: VersionChange) -> AsyncIterator[PreparedChange]:
        """Load and warm what a change wants."""
        if change.version is None:
            yield _CandidateEnd(self._control)
            return
        check = partial(check_digest, change.version)
        name = change.version.name
        if change.kind is VersionChangeKind.CANDIDATE:
            async with self._control.prepare_candidate(name, change.share, change.shadow, check) as prepared:
                yield _Prepared(prepared, change)
        else:
            async with self._control.prepare(name, check) as prepared:
                yield _Prepared(prepared, change)

    async def list_versions(self) -> dict[str, Any]:
        """Return the answer to `GET /v1/engines` of this node."""
        return await self._control.list_versions()

    def describe_candidate(self) -> dict[str, Any] | None:
        """Return what the status shows of the candidate here."""
        candidate = self._control.candidate
        return None if candidate is None else candidate.describe()

    def note_plan(self, plan: VersionPlan) -> None:
        """Let a reload select what the cluster serves."""
        self._control.cluster_version = plan.serving.name


class _Prepared:
    def __init__(self, prepared: PreparedVersion, change: VersionChange) -> None:
        self._prepared = prepared
        self._change = change

    async def switch(self) -> None:
        await self._prepared.switch(make_record_writer(self._change))


class _CandidateEnd:
    def __init__(self, control: VersionControl) -> None:
        self._control = control

    async def switch(self) -> None:
        await self._control.drop_candidate()


def check_digest(wanted: VersionRef, selection: Selection) -> None:
    """Raise `ReloadError` if the files of a selection are not those of the node that proposed them."""
    digest = digest_versions(selection.versions)
    if digest != wanted.digest:
        raise ReloadError(
            f"{selection.versions[0].path}: has another network than at the node that was asked: its digest is "
            f"{digest[:12]}, expected {wanted.digest[:12]}; copy the version's folder from there"
        )


def make_record_writer(change: VersionChange) -> WriteRecord:
    """Return what records a change in the repository of a node, whose own record may differ from others'."""

    def write(promoter: Promoter) -> None:
        assert change.version is not None, "a version serves"
        name = change.version.name
        if change.kind is VersionChangeKind.ROLLBACK and _find_target(promoter) == name:
            promoter.rollback(change.who, change.why, change.when)
        else:
            promoter.promote(name, change.who, change.why, change.when)

    return write


def _find_target(promoter: Promoter) -> str | None:
    try:
        return promoter.find_rollback_target()[0]
    except RepositoryError:
        return None
