"""Callers: which calls the holder of a token may make, and for which servers. Knows no request and no secret."""

from collections.abc import Callable, Mapping, Sequence
from math import inf

from streamd.core.access.scopes import Scope
from streamd.core.access.usage import NO_LIMITS, Usage, UsageLimits
from streamd.core.errors import ForbiddenError, UnauthorizedError
from streamd.core.selection import ServerGlobs

MAX_REMEMBERED_NAMES = 32_768
"""Decisions that are remembered for one scope of one caller: those of a whole fleet, in a few megabytes."""

_MAX_NAME_CHARACTERS = 256
"""No server has a longer name; names come from callers, so a longer one is neither remembered nor repeated."""


class Caller:
    """One token, or one name of a client certificate, for as long as it holds; shared by all its connections.

    `scopes` maps each scope to globs of servers; a server's exact name counts before it is read as a glob. Once
    revoked, a caller permits nothing.
    """

    def __init__(
        self,
        name: str,
        scopes: Mapping[Scope, Sequence[str]],
        limits: UsageLimits = NO_LIMITS,
        *,
        expires_at: float = inf,
        is_anonymous: bool = False,
        may_identify: bool = True,
    ) -> None:
        self.name = name
        self.expires_at = expires_at
        """Epoch seconds from which on this caller permits nothing; infinity if it does not expire."""
        self.is_anonymous = is_anonymous
        self.is_revoked = False
        self.usage = Usage(limits)
        self._may_identify = may_identify
        self._granted = {scope: _GrantedServers(globs) for scope, globs in scopes.items()}
        self.has_row_limit = limits.rows_per_second is not None
        self.recalls_write = self._make_write_test()
        """A quick test, for each sample, whether a server is known to be writable; `None` if each server is.

        If it is not known, `may` and `Usage.add_server` decide.
        """

    def _make_write_test(self) -> Callable[[str], bool | None] | None:
        granted = self._granted.get(Scope.INGEST)
        if granted is None:
            return _recall_nothing
        if self.usage.limits.max_servers is not None:
            return self.usage.knows_server
        return None if granted.is_all else granted.recall

    def __repr__(self) -> str:
        scopes = ", ".join(self._granted)
        return f"<Caller {self.name!r} scopes=[{scopes}] is_revoked={self.is_revoked}>"

    @property
    def scopes(self) -> Mapping[Scope, ServerGlobs]:
        """The granted scopes, each with its servers; empty once revoked."""
        return {scope: granted.globs for scope, granted in self._granted.items()}

    def has(self, scope: Scope) -> bool:
        """Whether a scope is granted, for some servers at least."""
        return scope in self._granted

    def covers_all(self, scope: Scope) -> bool:
        """Whether a scope is granted for all servers, so that names need not be checked."""
        granted = self._granted.get(scope)
        return granted is not None and granted.is_all

    def may(self, scope: Scope, server: str) -> bool:
        """Whether a scope is granted for a server."""
        granted = self._granted.get(scope)
        return granted is not None and granted.matches(server)

    def require(self, scope: Scope) -> None:
        """Raise `ForbiddenError` if the scope is not granted for any server.

        Raises `UnauthorizedError` if this caller is revoked, or could have the scope with a token.
        """
        if scope in self._granted:
            return
        self.require_valid()
        if not self.is_anonymous:
            raise ForbiddenError(f"the token {self.name!r} does not have the scope {scope}")
        if self._may_identify:
            raise UnauthorizedError(f"this call needs a token with the scope {scope}")
        raise ForbiddenError(
            f"this call needs a token with the scope {scope}, and the daemon has no tokens: "
            "set tokens_file in [access], or admin_token or admin_token_file in [server]"
        )

    def require_valid(self) -> None:
        """Raise `UnauthorizedError` if this caller is revoked."""
        if self.is_revoked:
            raise UnauthorizedError(f"the token {self.name!r} was revoked, or has expired")

    def require_server(self, scope: Scope, server: str) -> None:
        """Raise `ForbiddenError` if the scope is not granted for a server, whether or not the server exists.

        Raises `UnauthorizedError` as `require` does.
        """
        self.require(scope)
        if not self.may(scope, server):
            shown = server if len(server) <= _MAX_NAME_CHARACTERS else f"{server[:_MAX_NAME_CHARACTERS]}..."
            raise ForbiddenError(f"the token {self.name!r} has the scope {scope}, but not for the server {shown!r}")

    def revoke(self) -> None:
        """Permit nothing from now on, so that connections that are still open cannot use this caller."""
        self.is_revoked = True
        self._granted = {}
        self.recalls_write = _recall_nothing


def _recall_nothing(server: str) -> None:
    return None


class _GrantedServers:
    """The servers of one scope, with the decisions on names that were seen before."""

    __slots__ = ("_globs", "_made", "_remembered", "is_all", "recall")

    def __init__(self, globs: Sequence[str]) -> None:
        self.is_all = "*" in globs
        self._globs = globs
        # Made at the first question: of the thousands of tokens that a file may have, few are in use.
        self._made: ServerGlobs | None = None
        self._remembered: dict[str, bool] = {}
        self.recall = self._remembered.get

    @property
    def globs(self) -> ServerGlobs:
        if self._made is None:
            self._made = ServerGlobs(self._globs)
        return self._made

    def matches(self, server: str) -> bool:
        if self.is_all:
            return True
        remembered = self._remembered.get(server)
        return self._decide(server) if remembered is None else remembered

    def _decide(self, server: str) -> bool:
        decision = self.globs.matches(server)
        if len(server) <= _MAX_NAME_CHARACTERS:
            if len(self._remembered) >= MAX_REMEMBERED_NAMES:
                # A caller that invents names must not fill the memory; a fleet fits, so this is rare.
                self._remembered.clear()
            self._remembered[server] = decision
        return decision


EVERYTHING_BUT_ADMIN: Mapping[Scope, tuple[str, ...]] = {scope: ("*",) for scope in Scope if scope is not Scope.ADMIN}
"""The scopes of callers without a token in a daemon without tokens."""

ANYBODY = Caller("anonymous", EVERYTHING_BUT_ADMIN, is_anonymous=True, may_identify=False)
"""The caller of a daemon that has no token at all. It has no limits, so it records no names."""
