"""The routes `/openapi.json` and `/asyncapi.json`: the interface as documents, for generators and tests of clients.

The modules beside it make them, when one is requested first.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import orjson
from aiohttp import hdrs, web

from streamd.core.contract import ModelContract
from streamd.http.access.rules import RouteKey, RouteRule
from streamd.http.documents.asyncapi import make_asyncapi
from streamd.http.documents.openapi import make_openapi

MakeDocument = Callable[[ModelContract, Mapping[RouteKey, RouteRule]], dict[str, Any]]


class DocumentRoutes:
    """Handlers for readers of the documents, which have no secret and name no server."""

    def __init__(self, contract: ModelContract, rules: Mapping[RouteKey, RouteRule]) -> None:
        self._openapi = CachedDocument(make_openapi, contract, rules)
        self._asyncapi = CachedDocument(make_asyncapi, contract, rules)

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/openapi.json", self.get_openapi)
        app.router.add_get("/asyncapi.json", self.get_asyncapi)

    async def get_openapi(self, request: web.Request) -> web.Response:
        """Return the HTTP calls as OpenAPI 3.1."""
        return self._openapi.answer(request)

    async def get_asyncapi(self, request: web.Request) -> web.Response:
        """Return the WebSockets and the event streams as AsyncAPI 3.0."""
        return self._asyncapi.answer(request)


class CachedDocument:
    """A document, which is made once: neither the routes nor the contract change while the daemon runs."""

    def __init__(self, make: MakeDocument, contract: ModelContract, rules: Mapping[RouteKey, RouteRule]) -> None:
        self._make = make
        self._contract = contract
        self._rules = rules

    def answer(self, request: web.Request) -> web.Response:
        """Return the document, or 304 if the caller has it already."""
        headers = {hdrs.ETAG: f'"{self._tag}"', hdrs.CACHE_CONTROL: "no-cache"}
        known = request.if_none_match or ()
        if any(tag.value in (self._tag, "*") for tag in known):
            return web.Response(status=304, headers=headers)
        return web.Response(body=self._body, content_type="application/json", headers=headers)

    @cached_property
    def _body(self) -> bytes:
        return orjson.dumps(self._make(self._contract, self._rules))

    @cached_property
    def _tag(self) -> str:
        return hashlib.sha256(self._body).hexdigest()[:32]
