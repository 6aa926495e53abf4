"""Opens the first backend of a chain that runs here, and several lanes or runners of it, all of them or none at all.

Names no backend: the caller gives the chain.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeVar

from streamd.core.errors import BackendUnavailableError, StreamdError
from streamd.inference.lane import Backend, Lane


class Closable(Protocol):
    """Something that holds resources of a device."""

    def close(self) -> None:
        """Release the resources."""
        ...


T = TypeVar("T")
C = TypeVar("C", bound=Closable)


@dataclass(frozen=True, slots=True)
class SkippedBackend:
    """A backend that was tried and does not run here, with the reason."""

    backend: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        """Return the form in which `/v1/status` shows it."""
        return {"backend": self.backend, "reason": self.reason}

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


@dataclass(frozen=True)
class OpenedBackend:
    """A backend that runs, its lanes, and the backends that were tried before it."""

    backend: Backend
    lanes: list[Lane]
    passed_over: tuple[SkippedBackend, ...] = ()


OpenBackend = Callable[[frozenset[str]], OpenedBackend]
"""Opens the first backend of the chain that runs here and is not in the given set of names; blocks.

Raises `BackendUnavailableError` with every reason if there is no such backend.
"""


def open_first(
    subject: str, openers: Mapping[str, Callable[[], T]], *, skip_on: type[StreamdError] = BackendUnavailableError
) -> tuple[str, T, tuple[SkippedBackend, ...]]:
    """Call the openers in order until one succeeds; return its name, its result, and the backends before it.

    An opener that raises `skip_on` is passed over. `subject` names what should run. Raises `BackendUnavailableError`
    with every reason if no opener succeeds.
    """
    passed_over: list[SkippedBackend] = []
    for name, open_backend in openers.items():
        try:
            return name, open_backend(), tuple(passed_over)
        except skip_on as exc:
            passed_over.append(SkippedBackend(name, str(exc)))
    reasons = join_reasons(passed_over) or "each backend was tried before"
    raise BackendUnavailableError(f"no backend can run {subject}: {reasons}")


def join_reasons(passed_over: Iterable[SkippedBackend]) -> str:
    """Format the backends and their reasons as one line."""
    return "; ".join(map(str, passed_over))


def open_all(makers: Iterable[Callable[[], C]]) -> list[C]:
    """Call each maker and return the results; if one raises, close the results before it."""
    opened: list[C] = []
    with ExitStack() as made:
        for make in makers:
            opened.append(make())
            made.callback(opened[-1].close)
        made.pop_all()
    return opened
