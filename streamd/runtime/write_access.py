"""The servers that a caller may write: those of its token, and no more than its token permits.

Checks names only. A caller that may write all servers without a limit is not checked, so that it costs nothing.
"""

from collections.abc import Collection

from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import ForbiddenError, StreamdError, UnauthorizedError


class ServerWriter:
    """One caller that writes servers; `admitted` are the servers that have a window now."""

    def __init__(self, caller: Caller, admitted: Collection[str]) -> None:
        self._caller = caller
        self._usage = caller.usage
        self._admitted = admitted
        self._has_limit = caller.usage.limits.max_servers is not None

    def add_server(self, server: str) -> None:
        """Count a server among those that the caller writes; `drop_unless_admitted` follows.

        Raises `ForbiddenError` if the caller may not write it, `TooManyServersError` if it may write no other one.
        Both say nothing about the server itself. Raises `UnauthorizedError` if its token was revoked meanwhile.
        """
        self._caller.require_server(Scope.INGEST, server)
        if self._has_limit:
            self._usage.add_server(server)

    def drop_unless_admitted(self, server: str) -> None:
        """Stop counting a server that has no window, since everything that was sent for it was rejected."""
        if self._has_limit and server not in self._admitted:
            self._usage.forget_server(server)

    def find_refusal(self, server: str) -> StreamdError | None:
        """Return why the caller may not write a server, `None` if it may."""
        try:
            self.add_server(server)
        except (ForbiddenError, UnauthorizedError) as error:
            return error
        self.drop_unless_admitted(server)
        return None
