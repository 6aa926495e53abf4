"""The other nodes of a cluster, as the routes need them: `None` in their place is a daemon that is alone.

Only the interface; the composition root gives an object that has it.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from streamd.core.access.caller import Caller
from streamd.http.server_answers import ServersElsewhere


class OtherNodes(ServersElsewhere, Protocol):
    """The questions of a daemon of a cluster to the others, and its reports as a part of it."""

    async def list_servers(self, caller: Caller, after: str, limit: int) -> Mapping[str, Any]:
        """Return a page of all servers that a caller may read, by name, as the answer of `GET /v1/servers`."""
        ...

    async def forget_server(self, server: str) -> None:
        """Forget a server that this node has, and that reports, wherever something is kept of it.

        Raises `UnavailableError`.
        """
        ...

    async def show_all(self) -> None:
        """Return when the latest forecasts of all servers are on the board here, or after a moment."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return the entry `cluster` of the status."""
        ...

    def list_problems(self) -> list[str]:
        """Return what is wrong, one word each, while this node can still answer."""
        ...

    def find_refusal(self) -> str | None:
        """Return why this node should get no requests now, in one word; `None` if it should."""
        ...
