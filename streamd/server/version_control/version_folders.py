"""The versions on disk as changes read them: in a thread, within the time that their file system has to answer.

Loads nothing, and decides nothing; `control.py` does.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from streamd.repository.promotion import Promoter
from streamd.repository.versions import EngineRepository, SkippedVersion
from streamd.server.config import Config
from streamd.server.disk import run_disk_work
from streamd.server.version_control.prepared import CheckSelection, digest_versions
from streamd.server.version_control.specs import Selection, select_versions

T = TypeVar("T")


class VersionFolders:
    """The repository that the present settings name; each call raises `RepositoryError` if it does not answer."""

    def __init__(self, read_config: Callable[[], Config]) -> None:
        self._read_config = read_config

    @property
    def promoter(self) -> Promoter:
        """A promoter of the repository."""
        return Promoter(EngineRepository(Path(self._read_config().engine.engines)))

    async def run(self, what: str, work: Callable[[], T], release: Callable[[T], None] = lambda made: None) -> T:
        """Return what `work` returns; `what` names its subject in the error. A late result is released."""
        return await run_disk_work(what, self._read_config().engine.read_timeout_seconds, work, release)

    async def select(self, config: Config, *named: str) -> Selection:
        """Check and hold the named versions, or those that these settings choose if no name is given."""
        return await self.run(
            " and ".join(named) or config.engine.engines,
            partial(select_versions, config.engine, named),
            Selection.release,
        )

    async def check_promotable(self, version: str) -> None:
        """Raise `RepositoryError` if a version may not be promoted."""
        await self.run(version, partial(self.promoter.check, version))

    async def select_checked(self, version: str, check: CheckSelection) -> Selection:
        """Hold a version as `select`; raises what `check` raises of its files."""
        selection = await self.select(self._read_config(), version)
        try:
            check(selection)
        except BaseException:
            selection.release()
            raise
        return selection

    async def digest_files(self, version: str) -> str:
        """Return the digest of a version's network; raises `RepositoryError` if it may not be promoted."""
        await self.check_promotable(version)
        selection = await self.select(self._read_config(), version)
        try:
            return digest_versions(selection.versions)
        finally:
            selection.release()

    async def find_rollback_target(self) -> tuple[str, tuple[SkippedVersion, ...]]:
        """Return the version that a rollback would return to, and those that it would pass over.

        Raises `RepositoryError` if nothing was promoted.
        """
        return await self.run("the previous version", self.promoter.find_rollback_target)
