"""Promotes a version and rolls back: one atomic change of one small file, by one process at a time.

A version is promoted only if its files are sound and its accuracy gate passed it. Loads nothing and switches nothing.
"""

from collections.abc import Callable

from streamd.core.errors import RepositoryError
from streamd.repository.conversion import check_verdicts
from streamd.repository.files import lock_repository
from streamd.repository.record import PromotionRecord, read_promotion_record, write_promotion_record
from streamd.repository.versions import EngineRepository, SkippedVersion


class Promoter:
    """Changes the recorded version of a repository; a running daemon keeps the version that it has loaded.

    `now` is epoch seconds; `who` and `why` are stored in the history of the record.
    """

    def __init__(self, repository: EngineRepository) -> None:
        self.repository = repository

    def check(self, version: str) -> None:
        """Raise `RepositoryError` if a version is not sound, or if its accuracy gate refused it."""
        check_verdicts(self.repository.load(version).path)

    def find_rollback_target(self) -> tuple[str, tuple[SkippedVersion, ...]]:
        """Return the version that a rollback would return to, and the versions that it would pass over.

        Raises `RepositoryError` if there is nothing to undo.
        """
        passed_over: list[SkippedVersion] = []

        def may_serve(name: str) -> bool:
            try:
                self.check(name)
            except RepositoryError as exc:
                passed_over.append(SkippedVersion(name, "earlier", str(exc)))
                return False
            return True

        after = self._undo_last(read_promotion_record(self.repository.root), may_serve, "", "", 0.0)
        if after.current is not None:
            return after.current, tuple(passed_over)
        choice = self.repository.choose_unpromoted()
        return choice.version.name, (*passed_over, *choice.skipped)

    def promote(self, version: str, who: str, why: str, now: float) -> PromotionRecord:
        """Record that `version` serves; returns the record, unchanged if the version is already promoted.

        Raises `RepositoryError` if it is not sound, its gate refused it, or another promotion is in progress.
        """
        root = self.repository.root
        with lock_repository(root):
            self.check(version)
            before = read_promotion_record(root)
            after = before.with_promotion(version, when=now, who=who, why=why)
            if after is not before:
                write_promotion_record(root, after)
        return after

    def rollback(self, who: str, why: str, now: float) -> PromotionRecord:
        """Undo the last promotion that is not undone yet; returns the record.

        The version that was promoted before it serves again; before the first promotion, the default version or the
        newest one. Earlier versions that were removed or that a check refuses are passed over and listed in the
        record. Raises `RepositoryError` if no version is promoted, or if no sound version is left to return to.
        """
        root = self.repository.root
        with lock_repository(root):
            after = self._undo_last(read_promotion_record(root), self._is_servable, who, why, now)
            if after.current is None:
                self.repository.choose_unpromoted()  # raises if no version could serve then
            write_promotion_record(root, after)
        return after

    def _undo_last(
        self, record: PromotionRecord, may_serve: Callable[[str], bool], who: str, why: str, now: float
    ) -> PromotionRecord:
        try:
            return record.with_rollback(may_serve, when=now, who=who, why=why)
        except ValueError as exc:
            raise RepositoryError(f"{self.repository.root}: {exc}: there is nothing to roll back") from exc

    def _is_servable(self, name: str) -> bool:
        try:
            self.check(name)
        except RepositoryError:
            return False
        return True
