"""The gate that each request passes before its handler: where it was sent, from which site, by whom, and for what.

Decides nothing about tokens (`core/access` does), and does not read bodies.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from streamd.core.access.access_list import AccessList
from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import ForbiddenError, StreamdError, UnauthorizedError
from streamd.http.access.audit import log_action, run_audited
from streamd.http.access.context import limit_rows, recheck_caller, set_caller, set_target
from streamd.http.access.credentials import (
    explain_missing_token,
    list_certificate_names,
    parse_authorization,
    read_certificate_names,
    read_secret,
)
from streamd.http.access.origins import OriginPolicy
from streamd.http.access.rules import RouteKey, RouteRule, bind_rules
from streamd.http.direct.heads import PlainHead
from streamd.http.errors import Handler, add_error_headers
from streamd.http.names import read_server_name

UNIDENTIFIED = Caller("unidentified", {}, is_anonymous=True)
"""The caller of a public route that presents no valid token."""


class AccessGate:
    """Admits requests to their handlers; `wall` returns epoch seconds, `clock` monotonic seconds."""

    def __init__(
        self,
        access: AccessList,
        origins: OriginPolicy,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.refused: Counter[str] = Counter()
        """The refused requests since start, by error code."""
        self._access = access
        self._origins = origins
        self._wall = wall
        self._clock = clock
        self._rules: dict[web.AbstractRoute, RouteRule] = {}

    def guard(self, app: web.Application, rules: Mapping[RouteKey, RouteRule]) -> None:
        """Take the rule of each route; call it once all routes are added. Raises `LookupError` as `bind_rules` does."""
        self._rules = bind_rules(app, rules)

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request by its handler, or refuse it: the middleware after the one that answers errors."""
        rule = self._rules.get(request.match_info.route)
        try:
            self._check_site(request)
            if rule is not None:  # without a rule the path or the method is unknown, which the handler answers
                self._check_caller(request, rule)
        except StreamdError as error:
            return self._refuse(request, rule, error)
        if rule is not None and rule.action:
            return await run_audited(request, handler, rule.action)
        return await handler(request)

    def admit_plain(self, head: PlainHead, certificate: dict[str, Any] | None, rule: RouteRule) -> None:
        """Raise the error for which a plain request would be refused. Counts nothing: the one who answers does.

        A plain request has no Origin. `rule` has a scope and nothing else (`is_simple`).
        """
        scope = rule.scope
        assert scope is not None
        if self._access.is_open:
            self._origins.require_host(head.host)
        secret = None if head.authorization is None else parse_authorization(head.authorization)
        names = list_certificate_names(certificate)
        if secret is None and not names and not self._access.is_open:
            raise UnauthorizedError("this call needs a token")
        self._access.identify(secret, names, self._wall()).require(scope)

    def _check_site(self, request: web.Request) -> None:
        if self._access.is_open:  # a page cannot add a token that it does not know
            self._origins.check_host(request)
        self._origins.check_origin(request)

    def _check_caller(self, request: web.Request, rule: RouteRule) -> None:
        """Find the caller and check its rights, before anything is looked up that the answer could reveal."""
        scope = rule.choose_scope(request)
        is_socket = rule.opens_socket(request)
        caller = self._identify(request, scope, is_socket)
        set_caller(request, caller)
        if scope is None:
            return
        server = read_server_name(request) if rule.names_server and not is_socket else None
        caller.require(scope)
        if server is not None:
            set_target(request, server)
            caller.require_server(scope, server)
        elif rule.for_all_servers and not caller.covers_all(scope):
            raise ForbiddenError(f"the token {caller.name!r} has the scope {scope}, but not for all servers")
        if scope is Scope.INGEST and not is_socket:  # a socket waits before each frame instead
            limit_rows(request)
            recheck_caller(request, self._clock)

    def _identify(self, request: web.Request, scope: Scope | None, is_socket: bool) -> Caller:
        try:
            secret = read_secret(request, opens_socket=is_socket)
            names = read_certificate_names(request)
            if secret is None and not names and not self._access.is_open:
                raise UnauthorizedError(explain_missing_token(request))
            return self._access.identify(secret, names, self._wall())
        except UnauthorizedError:
            if scope is None:
                return UNIDENTIFIED
            if self._access.is_open:
                return self._access.anonymous
            raise

    def _refuse(self, request: web.Request, rule: RouteRule | None, error: StreamdError) -> web.StreamResponse:
        """Answer in the form of the route; raises the error if that is the usual one."""
        self.refused[error.code] += 1
        if rule is not None and rule.action:
            log_action(request, rule.action, error.code)
        if rule is None or rule.refuse is None:
            raise error
        answer = rule.refuse(request, error)
        add_error_headers(answer, error)
        return answer
