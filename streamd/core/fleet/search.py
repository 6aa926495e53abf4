"""The search for servers by their names: a part of the name, or a glob over all of it, ignoring case. Pure."""

from streamd.core.errors import InvalidSelectionError
from streamd.core.globs import GlobSet, has_wildcard, split_atoms

MAX_SEARCH_CLASSES = 8
"""Different `[...]` in one search: with 45 of them, 4,000 long names of rare characters took 4 s."""


class NameSearch:
    """The names that a text finds; an empty text finds all.

    With `*`, `?` or `[` the text is a glob (`core/globs.py`) for the whole name, and also finds the names that have it
    as a part, such as `db[1]`. Raises `InvalidSelectionError` for a glob that cannot be matched quickly.
    """

    def __init__(self, text: str) -> None:
        self._text = text.lower()
        self._globs = _make_globs(self._text) if has_wildcard(self._text) else None

    def finds(self, lower_name: str) -> bool:
        """Whether the text finds a name, which is in lower case."""
        return self._text in lower_name or (self._globs is not None and self._globs.matches(lower_name))


def _make_globs(text: str) -> GlobSet:
    classes = {atom for atom in split_atoms(text) if len(atom) > 1}
    if len(classes) > MAX_SEARCH_CLASSES:
        raise InvalidSelectionError(f"it has {len(classes)} different [...], expected at most {MAX_SEARCH_CLASSES}")
    return GlobSet([text])
