"""Promotes a version and rolls back: one atomic change of one small file, by one person at a time.

A version is promoted only if it is sound and its accuracy gate lets it serve.
"""

from collections.abc import Callable

from streamd.core.errors import RepositoryError
from streamd.repository.conversion import refuse_by_gate
from streamd.repository.files import exclusive
from streamd.repository.record import Record, read_record, write_record
from streamd.repository.versions import EngineRepository, PassedOver


class Promoter:
    """Changes which version a repository serves; a daemon that runs goes on with the one that it has loaded.

    `now` is epoch seconds; `who` and `why` are kept in the record's history.
    """

    def __init__(self, repository: EngineRepository) -> None:
        self.repository = repository

    def check(self, version: str) -> None:
        """Raise `RepositoryError` where a version is not sound, or its accuracy gate refused it."""
        refuse_by_gate(self.repository.load(version).path)

    def find_rollback_target(self) -> tuple[str, tuple[PassedOver, ...]]:
        """Return what a rollback goes back to, and what it passes over on the way.

        Raises `RepositoryError` where there is nothing to undo.
        """
        missed: list[PassedOver] = []

        def may_serve(name: str) -> bool:
            try:
                self.check(name)
            except RepositoryError as exc:
                missed.append(PassedOver(name, "earlier", str(exc)))
                return False
            return True

        after = self._rolled_back(read_record(self.repository.root), may_serve, "", "", 0.0)
        if after.current is not None:
            return after.current, tuple(missed)
        choice = self.repository.choice_unpromoted()
        return choice.version.name, (*missed, *choice.missed)

    def promote(self, version: str, who: str, why: str, now: float) -> Record:
        """Let `version` serve from now on; returns the record, unchanged where it is promoted already.

        Raises `RepositoryError` where it is not sound, its gate refused it, or another promotion is under way.
        """
        root = self.repository.root
        with exclusive(root):
            self.check(version)
            before = read_record(root)
            after = before.promoted(version, when=now, who=who, why=why)
            if after is not before:
                write_record(root, after)
        return after

    def rollback(self, who: str, why: str, now: float) -> Record:
        """Undo the last promotion that is not undone yet; returns the record.

        What was promoted before it serves again; before the first promotion that is the default version, or the
        newest. Earlier versions that are gone or refused by now are passed over, which the record tells. Raises
        `RepositoryError` where nothing is promoted, or nothing sound is left to go back to.
        """
        root = self.repository.root
        with exclusive(root):
            after = self._rolled_back(read_record(root), self._may_serve, who, why, now)
            if after.current is None:
                self.repository.choose_unpromoted()  # raises where the way back leads nowhere
            write_record(root, after)
        return after

    def _rolled_back(self, record: Record, may_serve: Callable[[str], bool], who: str, why: str, now: float) -> Record:
        try:
            return record.rolled_back(may_serve, when=now, who=who, why=why)
        except ValueError as exc:
            raise RepositoryError(f"{self.repository.root}: {exc}: there is nothing to roll back") from exc

    def _may_serve(self, name: str) -> bool:
        try:
            self.check(name)
        except RepositoryError:
            return False
        return True
