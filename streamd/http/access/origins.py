"""Web pages as callers: the checks of the headers Host and Origin.

A page of another site in an operator's browser must neither open a WebSocket here nor post samples, and a name that
its owner points at this machine (DNS rebinding) must not make the page one of this site. No CORS header is ever sent.
"""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from streamd.core.errors import ForeignOriginError, WrongHostError

_DEFAULT_PORTS = {"http": 80, "https": 443}

_MAX_SHOWN_CHARACTERS = 100

_MAX_CHECKED_HOSTS = 64


class OriginPolicy:
    """The hosts under which the daemon answers, and the sites whose pages may call it."""

    def __init__(self, allowed_hosts: Iterable[str] = (), allowed_origins: Iterable[str] = ()) -> None:
        own = socket.gethostname().lower()
        self._hosts = frozenset({"localhost", own, own.partition(".")[0], *(each.lower() for each in allowed_hosts)})
        self._checked_hosts: set[str] = set()
        """Values of Host that were found to be of this machine: clients repeat them, and to parse one takes 6 us."""
        self._origins = frozenset(filter(None, map(_parse_origin, allowed_origins)))

    def check_host(self, request: web.BaseRequest) -> None:
        """Raise `WrongHostError` unless each Host of a request is a numeric address or a name of this machine.

        A page can choose only names of its own site, so a numeric address proves that it was not rebound. A request
        without the header is not from a browser.
        """
        for host in request.headers.getall(hdrs.HOST, ()):
            self.require_host(host)

    def require_host(self, host: str) -> None:
        """Raise `WrongHostError` unless this value of the header Host is one of this machine."""
        if host not in self._checked_hosts:
            name = _parse_host(host)
            if name is None or not (name in self._hosts or _is_address(name)):
                shown = host[:_MAX_SHOWN_CHARACTERS]
                raise WrongHostError(f"Host is {shown!r}, expected an address, localhost, or one of allowed_hosts")
            if len(self._checked_hosts) < _MAX_CHECKED_HOSTS and len(host) <= _MAX_SHOWN_CHARACTERS:
                self._checked_hosts.add(host)

    def check_origin(self, request: web.BaseRequest) -> None:
        """Raise `ForeignOriginError` if a page of another site sends the request."""
        for origin in request.headers.getall(hdrs.ORIGIN, ()):
            parsed = _parse_origin(origin)
            if parsed is None or not (parsed in self._origins or parsed == _find_own_origin(request)):
                shown = origin[:_MAX_SHOWN_CHARACTERS]
                raise ForeignOriginError(
                    f"Origin is {shown!r}, expected that of this server, or one of allowed_origins"
                )


Origin = tuple[str, str, int]
"""Scheme, name and port."""


def _find_own_origin(request: web.BaseRequest) -> Origin | None:
    return _parse_origin(f"{request.scheme}://{request.headers.get(hdrs.HOST, '')}")


def _parse_origin(text: str) -> Origin | None:
    """Return the parts of an origin, with the default port of its scheme; `None` for `null` and what is no origin."""
    try:
        parts = urlsplit(text.strip().lower())
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if port is None or not parts.hostname or "@" in parts.netloc:
        return None
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname.rstrip("."), port


def _parse_host(text: str) -> str | None:
    """Return the name or the address in a Host header, without its port; `None` if it has neither."""
    parsed = _parse_origin(f"http://{text}")
    return None if parsed is None else parsed[1]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
