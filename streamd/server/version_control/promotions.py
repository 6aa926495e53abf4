"""The record of promotions as a running daemon changes it.

A version is judged before it is loaded, and the change is written once it is warm.
"""

import time
from pathlib import Path

from streamd.core.errors import RepositoryError
from streamd.repository.conversion import refuse_by_gate
from streamd.repository.promotion import Promoter
from streamd.repository.record import Record, read_record
from streamd.repository.versions import EngineRepository, PassedOver


class Promotions:
    """One folder of versions; every call blocks, and raises `RepositoryError`."""

    def __init__(self, root: Path) -> None:
        self._repository = EngineRepository(root)
        self._promoter = Promoter(self._repository)

    def check(self, version: str) -> None:
        """Raise where a version is not sound, or its accuracy gate refused it."""
        refuse_by_gate(self._repository.load(version).path)

    def version_before(self) -> tuple[str, tuple[PassedOver, ...]]:
        """Return what a rollback goes back to, and what it passes over; raises where there is nothing to undo."""
        root = self._repository.root
        missed: list[PassedOver] = []

        def may_serve(name: str) -> bool:
            try:
                self.check(name)
            except RepositoryError as exc:
                missed.append(PassedOver(name, "earlier", str(exc)))
                return False
            return True

        try:
            after = read_record(root).rolled_back(may_serve, when=0.0, who="", why="")
        except ValueError as exc:
            raise RepositoryError(f"{root}: {exc}: there is nothing to roll back") from exc
        if after.current is not None:
            return after.current, tuple(missed)
        choice = self._repository.choice_unpromoted()
        return choice.version.name, (*missed, *choice.missed)

    def promote(self, version: str, who: str, why: str) -> Record:
        """Let `version` serve from the next start on."""
        return self._promoter.promote(version, who, why, time.time())

    def rollback(self, who: str, why: str) -> Record:
        """Undo the last promotion."""
        return self._promoter.rollback(who, why, time.time())
