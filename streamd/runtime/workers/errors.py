"""Errors that cross from one process of the daemon to another: by their code and their text."""

from collections.abc import Iterator

from streamd.core.errors import StreamdError, UnavailableError


def describe_error(error: StreamdError) -> tuple[str, str]:
    """Return the code and the text of an error."""
    return error.code, str(error)


def restore_error(code: str, text: str) -> StreamdError:
    """Return the error that `describe_error` described."""
    return _CLASSES.get(code, UnavailableError)(text)


def _list_classes(root: type[StreamdError]) -> Iterator[type[StreamdError]]:
    yield root
    for child in root.__subclasses__():
        yield from _list_classes(child)


# The first class of a code: subclasses without a code of their own stand behind it.
_CLASSES: dict[str, type[StreamdError]] = {each.code: each for each in reversed([*_list_classes(StreamdError)])}
