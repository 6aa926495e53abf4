"""Query parameters: which are known, which may be given once, and lists in them. Knows no route."""

from collections.abc import Collection, Iterable, Sequence

from streamd.core.errors import InvalidSelectionError

MAX_SHOWN_PARAMETERS, MAX_SHOWN_CHARACTERS = 8, 64
"""Of unknown parameters, what an error repeats: a caller chooses how many there are, and how long."""


def collect_values(
    parameters: Iterable[tuple[str, str]], known: Collection[str], single: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Return the values of each parameter.

    Raises `InvalidSelectionError` for one that is not `known`, and for a `single` one that is given more than once.
    """
    query: dict[str, list[str]] = {}
    for name, value in parameters:
        query.setdefault(name, []).append(value)
    if unknown := sorted(set(query) - set(known)):
        shown = [name[:MAX_SHOWN_CHARACTERS] for name in unknown[:MAX_SHOWN_PARAMETERS]]
        raise InvalidSelectionError(f"unknown parameters {shown}, expected some of {sorted(known)}")
    for name in single:
        if len(query.get(name, ())) > 1:
            raise InvalidSelectionError(f"{name} is given {len(query[name])} times, expected once")
    return query


def split_list(values: Sequence[str], known: Sequence[str] = ()) -> list[str]:
    """Split values at their commas; a value that is in `known` stays whole."""
    return [part for value in values for part in ([value] if value in known else value.split(","))]
