"""The record of promotions, `promoted.json`: the promoted version, those before it, and who promoted them and why.

A record never changes; `with_promotion` and `with_rollback` return the next one. This module does not decide which
version may be promoted.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from streamd.core.errors import RepositoryError
from streamd.regular_files import read_regular
from streamd.repository.files import replace_file

PROMOTION_RECORD = "promoted.json"
MAX_EARLIER = 50
MAX_HISTORY = 200
MAX_TEXT_CHARACTERS = 500


class PromotionChange(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """One promotion or rollback, from one version to another; `None` stands for "nothing promoted"."""

    kind: Literal["promote", "rollback"]
    version: str | None
    from_: str | None
    when: float
    """Epoch seconds."""
    who: str
    why: str
    passed_over: tuple[str, ...] = ()
    """Earlier versions that a rollback could not return to, since they were removed or are refused."""


class PromotionRecord(msgspec.Struct, frozen=True):
    """The promoted version, those before it, and the history of changes.

    `earlier` is an undo stack; its last is the version that was promoted before `current`.

    1. A promotion pushes `current`.
    2. A rollback pops the last, so two rollbacks undo two promotions, and never return to a version that was undone.
    3. Under the stack is "nothing promoted": the default version serves, or the newest.
    """

    current: str | None = None
    earlier: tuple[str, ...] = ()
    history: tuple[PromotionChange, ...] = ()

    @property
    def previous(self) -> str | None:
        """The version promoted before the current one, or `None`."""
        return self.earlier[-1] if self.earlier else None

    @property
    def serving_names(self) -> tuple[str, ...]:
        """The versions that were promoted and not rolled back, the newest promotion first."""
        current = () if self.current is None else (self.current,)
        return (*current, *reversed(self.earlier))

    def with_promotion(self, version: str, *, when: float, who: str, why: str) -> "PromotionRecord":
        """Return the record with `version` promoted; this record itself if it is promoted already."""
        if version == self.current:
            return self
        earlier = self.earlier if self.current is None else (*self.earlier, self.current)
        change = PromotionChange(
            kind="promote", version=version, from_=self.current, when=when, who=_limit_text(who), why=_limit_text(why)
        )
        return PromotionRecord(version, earlier[-MAX_EARLIER:], self._append_history(change))

    def with_rollback(self, is_sound: Callable[[str], bool], *, when: float, who: str, why: str) -> "PromotionRecord":
        """Return the record with the last promotion undone, and also those before it whose versions are not sound.

        Raises `ValueError` if nothing is promoted.
        """
        if self.current is None:
            raise ValueError("nothing is promoted")
        earlier, passed_over = list(self.earlier), list[str]()
        while earlier and not is_sound(earlier[-1]):
            passed_over.append(earlier.pop())
        version = earlier.pop() if earlier else None
        change = PromotionChange(
            kind="rollback",
            version=version,
            from_=self.current,
            when=when,
            who=_limit_text(who),
            why=_limit_text(why),
            passed_over=tuple(passed_over),
        )
        return PromotionRecord(version, tuple(earlier), self._append_history(change))

    def _append_history(self, change: PromotionChange) -> tuple[PromotionChange, ...]:
        return (*self.history, change)[-MAX_HISTORY:]


def read_promotion_record(root: Path) -> PromotionRecord:
    """Read the record of a repository; without a file nothing was promoted. Raises `RepositoryError`."""
    path = root / PROMOTION_RECORD
    try:
        return msgspec.json.decode(read_regular(path), type=PromotionRecord)
    except FileNotFoundError:
        return PromotionRecord()
    except OSError as exc:
        raise RepositoryError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except msgspec.DecodeError as exc:
        raise RepositoryError(
            f"{path}: {exc}; restore it, or remove it: nothing is promoted then, and the default version serves"
        ) from exc


def write_promotion_record(root: Path, record: PromotionRecord) -> None:
    """Replace the record atomically; raises `RepositoryError`."""
    fields = msgspec.to_builtins(record)
    # `previous` is for people who read the file; it is not read back, since it follows from `earlier`.
    shown = {"current": fields["current"], "previous": record.previous, **fields}
    replace_file(root / PROMOTION_RECORD, msgspec.json.format(msgspec.json.encode(shown), indent=2) + b"\n")


def _limit_text(text: str) -> str:
    """Cut a text to its limit; bytes of a command line that are no UTF-8 become question marks."""
    return text.encode("utf-8", "replace").decode()[:MAX_TEXT_CHARACTERS]
