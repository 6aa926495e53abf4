"""The routes below `/v1/engines`: the list of versions, and promotion, rollback and candidates for administrators.

Checks the bodies; what a change does is up to the `VersionChanges` that it is given.
"""

from typing import Annotated, Any, Protocol

import msgspec
from aiohttp import web

from streamd.http.access.context import get_caller, set_target
from streamd.http.access.forwarded import get_remote
from streamd.http.errors import reply
from streamd.http.requests import BodyReader
from streamd.http.wire.codecs import Decoder, parse_content_type

ChangeReport = dict[str, Any]
"""The JSON answer to a change."""

VersionList = dict[str, Any]
"""The JSON list of versions."""


class VersionChanges(Protocol):
    """Lists the versions, and changes the serving one or the candidate.

    Each method raises `StreamdError` if it cannot; it has changed nothing then.
    """

    async def list_versions(self) -> VersionList:
        """Return all versions, sound or not, and the record of promotions."""
        ...

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
    """Handlers of the list of versions, promotion, rollback and candidates."""

    def __init__(self, bodies: BodyReader, changes: VersionChanges) -> None:
        self._bodies = bodies
        self._changes = changes

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/engines", self.list_versions)
        app.router.add_post("/v1/engines/promote", self.promote)
        app.router.add_post("/v1/engines/rollback", self.rollback)
        app.router.add_post("/v1/engines/candidate", self.start_candidate)
        app.router.add_delete("/v1/engines/candidate", self.end_candidate)

    async def list_versions(self, request: web.Request) -> web.Response:
        """Return all versions, sound or not, and the record of promotions."""
        return reply(request, await self._changes.list_versions())

    async def start_candidate(self, request: web.Request) -> web.Response:
        """Load and warm a candidate, and give it its servers."""
        encoding = parse_content_type(request.headers.get("Content-Type", ""))
        async with self._bodies.read_body(request) as body:
            requested: CandidateRequest = _candidate_decoder.decode(body, encoding)
        set_target(request, requested.version)
        return reply(request, await self._changes.start_candidate(requested.version, requested.share, requested.shadow))

    async def end_candidate(self, request: web.Request) -> web.Response:
        """End the candidate, if there is one."""
        return reply(request, await self._changes.end_candidate())

    async def promote(self, request: web.Request) -> web.Response:
        """Load, warm and switch to a version; answers once it serves."""
        encoding = parse_content_type(request.headers.get("Content-Type", ""))
        async with self._bodies.read_body(request) as body:
            requested: Promotion = _promotion_decoder.decode(body, encoding)
        set_target(request, requested.version)
        who = requested.who or _name_caller(request)
        return reply(request, await self._changes.promote(requested.version, who, requested.why))

    async def rollback(self, request: web.Request) -> web.Response:
        """Return to the version that was promoted before, without loading if it is still warm."""
        async with self._bodies.read_body(request) as body:
            requested = Rollback()
            if body:
                requested = _rollback_decoder.decode(body, parse_content_type(request.headers.get("Content-Type", "")))
        return reply(request, await self._changes.rollback(requested.who or _name_caller(request), requested.why))


def _name_caller(request: web.Request) -> str:
    """Return the `who` of the record for a caller that gives no name: that of its token, and its address."""
    return f"{get_caller(request).name} {get_remote(request) or 'unknown'}"
