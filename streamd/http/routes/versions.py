"""The routes below `/v1/engines`: promotion, rollback and candidates, for callers with the admin token.

Checks the token and the bodies; what a change does is up to the `VersionChanges` that it is given.
"""

import hmac
from typing import Annotated, Any, Protocol

import msgspec
from aiohttp import web

from streamd.core.errors import ForbiddenError, UnauthorizedError
from streamd.http.errors import reply
from streamd.http.requests import BodyReader
from streamd.http.wire.codecs import Decoder, parse_content_type

ChangeReport = dict[str, Any]
"""The JSON answer to a change."""


class VersionChanges(Protocol):
    """Changes the serving version or the candidate; each method raises `StreamdError` if it changed nothing."""

    async def promote(self, version: str, who: str, why: str) -> ChangeReport:
        """Switch to a version, and record it for the next start."""
        ...

    async def rollback(self, who: str, why: str) -> ChangeReport:
        """Undo the last promotion."""
        ...

    async def start_candidate(self, version: str, share: float, shadow: bool) -> ChangeReport:
        """Make a version the candidate, on a share of the servers from 0 to 1."""
        ...

    async def end_candidate(self) -> ChangeReport:
        """End the candidate, if there is one; the serving version has all servers again."""
        ...


class Promotion(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a promotion."""

    version: str
    who: str = ""
    why: str = ""


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a rollback; the body may be empty."""

    who: str = ""
    why: str = ""


class CandidateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body that starts a candidate."""

    version: str
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    shadow: bool = False


_candidate_decoder = Decoder(CandidateRequest)
_promotion_decoder = Decoder(Promotion)
_rollback_decoder = Decoder(Rollback)


class VersionRoutes:
    """Handlers of promotion, rollback and candidates; with an empty `token` each call is refused."""

    def __init__(self, bodies: BodyReader, changes: VersionChanges, token: str) -> None:
        self._bodies = bodies
        self._changes = changes
        self._token = token.encode()

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/v1/engines/promote", self.promote)
        app.router.add_post("/v1/engines/rollback", self.rollback)
        app.router.add_post("/v1/engines/candidate", self.start_candidate)
        app.router.add_delete("/v1/engines/candidate", self.end_candidate)

    async def start_candidate(self, request: web.Request) -> web.Response:
        """Load and warm a candidate, and give it its servers."""
        self._authorize(request)
        encoding = parse_content_type(request.headers.get("Content-Type", ""))
        async with self._bodies.read_body(request) as body:
            requested: CandidateRequest = _candidate_decoder.decode(body, encoding)
        return reply(request, await self._changes.start_candidate(requested.version, requested.share, requested.shadow))

    async def end_candidate(self, request: web.Request) -> web.Response:
        """End the candidate, if there is one."""
        self._authorize(request)
        return reply(request, await self._changes.end_candidate())

    async def promote(self, request: web.Request) -> web.Response:
        """Load, warm and switch to a version; answers once it serves."""
        self._authorize(request)
        encoding = parse_content_type(request.headers.get("Content-Type", ""))
        async with self._bodies.read_body(request) as body:
            requested: Promotion = _promotion_decoder.decode(body, encoding)
        who = requested.who or _name_caller(request)
        return reply(request, await self._changes.promote(requested.version, who, requested.why))

    async def rollback(self, request: web.Request) -> web.Response:
        """Return to the version that was promoted before, without loading if it is still warm."""
        self._authorize(request)
        async with self._bodies.read_body(request) as body:
            requested = Rollback()
            if body:
                requested = _rollback_decoder.decode(body, parse_content_type(request.headers.get("Content-Type", "")))
        return reply(request, await self._changes.rollback(requested.who or _name_caller(request), requested.why))

    def _authorize(self, request: web.Request) -> None:
        """Raise `ForbiddenError` if no token is configured, `UnauthorizedError` if the caller does not send it."""
        if not self._token:
            raise ForbiddenError(
                "changing versions over HTTP is disabled: set admin_token or admin_token_file in [server], "
                "or use `streamd engine promote` and `systemctl reload streamd`"
            )
        scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
        is_right = hmac.compare_digest(sent.strip().encode("utf-8", "surrogateescape"), self._token)
        if scheme.lower() != "bearer" or not is_right:
            raise UnauthorizedError("this call needs the header Authorization: Bearer <admin_token>")


def _name_caller(request: web.Request) -> str:
    """Return the `who` of the record for a caller that gives no name."""
    return f"http {request.remote or 'unknown'}"
