"""Pages of the servers that report, by name. Reads the state of this process alone."""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from streamd.core.state.window_columns import NO_STEP
from streamd.runtime.service import Service


class ListedServers(NamedTuple):
    """Some servers in the order of their names, and the cursor of the next page, `None` if this is the last one."""

    servers: list[dict[str, Any]]
    next: str | None


def make_server_page(service: Service, after: str, limit: int, accepts: Callable[[str], bool]) -> ListedServers:
    """Return the first `limit` servers after a name that `accepts` is true for."""
    directory = service.state.directory
    accepted = (name for name in directory.iterate_names(after=after) if accepts(name))
    page = list(islice(accepted, limit))
    described = [_describe_server(service, name, directory.slots[name]) for name in page]
    return ListedServers(described, page[-1] if next(accepted, None) is not None else None)


def _describe_server(service: Service, name: str, slot: int) -> dict[str, Any]:
    state = service.state
    return {
        "server": name,
        "have": state.windows.have[slot],
        "origin": to_origin(service, state.windows.get_newest_step(slot)),
        "last_forecast": to_origin(service, state.board.get_step(slot)),
    }


def to_origin(service: Service, step: int) -> int | None:
    """Return the origin of a step, `None` for no step."""
    return None if step == NO_STEP else service.contract.to_origin(step)
