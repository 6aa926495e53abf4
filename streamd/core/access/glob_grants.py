"""Compares globs with those of a token: whether they are covered, and whether both may choose the same server.

Pure. A glob chooses the server of exactly this name too. What cannot be decided quickly is answered on the safe side.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import takewhile

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.globs import has_wildcard, split_atoms


def find_uncovered(caller: Caller, scope: Scope, globs: Iterable[str]) -> str | None:
    """Return the first of some globs that may choose a server for which a scope is not granted; `None` if none may."""
    if caller.covers_all(scope):
        return None
    granted = caller.scopes[scope].globs if caller.has(scope) else ()
    return next((glob for glob in globs if not _is_covered(caller, scope, granted, glob)), None)


def list_shared(caller: Caller, scope: Scope, globs: Iterable[str]) -> tuple[str, ...]:
    """Return those of some globs that may choose a server for which a scope is granted, in their order."""
    if caller.covers_all(scope):
        return tuple(globs)
    granted = caller.scopes[scope].globs if caller.has(scope) else ()
    return tuple(glob for glob in globs if _is_shared(caller, scope, granted, glob))


def _is_covered(caller: Caller, scope: Scope, granted: Sequence[str], glob: str) -> bool:
    if not has_wildcard(glob):
        return caller.may(scope, glob)
    return any(covers_glob(other, glob) for other in granted)


def _is_shared(caller: Caller, scope: Scope, granted: Sequence[str], glob: str) -> bool:
    if not has_wildcard(glob):
        return caller.may(scope, glob)
    return any(may_overlap(glob, other) for other in granted)


def covers_glob(granted: str, glob: str) -> bool:
    """Whether each server that `glob` chooses is certainly chosen by `granted` too.

    Known for equal texts, and where `granted` is a text with a `*` at its end or at its beginning; all others are taken
    for not covered.
    """
    if granted == glob or granted == "*":
        return True
    atoms = list(split_atoms(glob))
    if granted.endswith("*") and not has_wildcard(granted[:-1]):
        return "".join(takewhile(_is_literal, atoms)).startswith(granted[:-1])
    if granted.startswith("*") and not has_wildcard(granted[1:]):
        return "".join(takewhile(_is_literal, reversed(atoms))).startswith(granted[:0:-1])
    return False


@lru_cache(maxsize=4_096)
def may_overlap(first: str, second: str) -> bool:
    """Whether some name may be chosen by both globs; two classes of characters are taken to have one in common."""
    left, right = list(split_atoms(first)), list(split_atoms(second))
    for mine, other in zip(left, right, strict=False):  # most globs differ in their first characters
        if not (_is_literal(mine) and _is_literal(other)):
            break
        if mine != other:
            return False
    # The places of `right` that can be reached with all of `left` up to here, from the end of both to their beginning.
    reached = _start_row(right)
    for atom in reversed(left):
        reached = _advance_row(atom, right, reached)
    return reached[0] or _is_named(first, second) or _is_named(second, first)


def _start_row(right: Sequence[str]) -> list[bool]:
    row = [True]
    for atom in reversed(right):
        row.insert(0, row[0] and atom == "*")
    return row


def _advance_row(atom: str, right: Sequence[str], after: Sequence[bool]) -> list[bool]:
    """Return where the rest of `right` can agree with an atom and what follows it, which `after` has."""
    row = [False] * (len(right) + 1)
    row[-1] = atom == "*" and after[-1]
    for place in reversed(range(len(right))):
        other = right[place]
        if "*" in (atom, other):
            row[place] = after[place] or row[place + 1]  # it stands for what the other one has here, or for nothing
        else:
            row[place] = _share_character(atom, other) and after[place + 1]
    return row


def _is_literal(atom: str) -> bool:
    return len(atom) == 1 and atom not in "*?"


def _share_character(first: str, second: str) -> bool:
    if _is_literal(first) and _is_literal(second):
        return first == second
    return True


def _is_named(glob: str, name: str) -> bool:
    """Whether the text of a glob, read as a name, is chosen by another glob."""
    return has_wildcard(name) and fnmatchcase(name, glob)
