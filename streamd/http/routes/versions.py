"""`/v1/engines`: another version serves, for a caller who shows the token."""

import hmac
from typing import Annotated, Any, Protocol

import msgspec
from aiohttp import web

from streamd.core.errors import ForbiddenError, UnauthorizedError
from streamd.http.errors import reply
from streamd.http.requests import BodyReader
from streamd.http.wire.codecs import Decoder, encoding_of

ChangeReport = dict[str, Any]


class VersionChanges(Protocol):
    """Who changes what serves; each raises `StreamdError` where it does not, and then nothing was changed."""

    async def promote(self, version: str, who: str, why: str) -> ChangeReport:
        """Let a version serve from now on, and from the next start on."""
        ...

    async def rollback(self, who: str, why: str) -> ChangeReport:
        """Undo the last promotion."""
        ...

    async def start_candidate(self, version: str, share: float, shadow: bool) -> ChangeReport:
        """Put a version on trial, on a share of the servers."""
        ...

    async def end_candidate(self) -> ChangeReport:
        """Let the version that serves have all servers again."""
        ...


class Promotion(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a promotion."""

    version: str
    who: str = ""
    why: str = ""


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a rollback; it may be left out."""

    who: str = ""
    why: str = ""


class CandidateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body that puts a version on trial."""

    version: str
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    shadow: bool = False


_candidate = Decoder(CandidateRequest)
_promotion = Decoder(Promotion)
_rollback = Decoder(Rollback)


class VersionRoutes:
    """Promotion, rollback and trials; without a token they are closed to everyone."""

    def __init__(self, bodies: BodyReader, engines: VersionChanges, token: str) -> None:
        self._bodies = bodies
        self._engines = engines
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
        encoding = encoding_of(request.headers.get("Content-Type", ""))
        async with self._bodies.read(request) as body:
            asked: CandidateRequest = _candidate.decode(body, encoding)
        return reply(request, await self._engines.start_candidate(asked.version, asked.share, asked.shadow))

    async def end_candidate(self, request: web.Request) -> web.Response:
        """End the trial, if there is one."""
        self._authorize(request)
        return reply(request, await self._engines.end_candidate())

    async def promote(self, request: web.Request) -> web.Response:
        """Load, warm and switch; answers once the version serves."""
        self._authorize(request)
        encoding = encoding_of(request.headers.get("Content-Type", ""))
        async with self._bodies.read(request) as body:
            asked: Promotion = _promotion.decode(body, encoding)
        told = await self._engines.promote(asked.version, asked.who or _caller(request), asked.why)
        return reply(request, told)

    async def rollback(self, request: web.Request) -> web.Response:
        """Go back to what was promoted before; at once where that is warm still."""
        self._authorize(request)
        async with self._bodies.read(request) as body:
            asked = Rollback()
            if body:
                asked = _rollback.decode(body, encoding_of(request.headers.get("Content-Type", "")))
        return reply(request, await self._engines.rollback(asked.who or _caller(request), asked.why))

    def _authorize(self, request: web.Request) -> None:
        """Raise `ForbiddenError` where nobody may, `UnauthorizedError` where this caller may not."""
        if not self._token:
            raise ForbiddenError(
                "versions are not changed over HTTP here: set admin_token or admin_token_file in [server], "
                "or use `streamd engine promote` and `systemctl reload streamd`"
            )
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode("utf-8", "surrogateescape"), self._token)
        if scheme.lower() != "bearer" or not right:
            raise UnauthorizedError("this call needs the header Authorization: Bearer <admin_token>")


def _caller(request: web.Request) -> str:
    return f"http {request.remote or 'unknown'}"
