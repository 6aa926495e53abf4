"""The credentials of a request: the token that it carries, or the client certificate of its connection.

Reads the request only; `core/access` knows the tokens. No text here repeats what was sent: it may be a secret.
"""

import base64
import binascii
from typing import Any
from urllib.parse import unquote

from aiohttp import hdrs, web

from streamd.core.errors import UnauthorizedError
from streamd.http.access.forwarded import get_forwarded_names

TOKEN_SCHEMES = ("bearer", "token")
"""Schemes whose credentials are the token: that of RFC 6750, and that of InfluxDB 2."""

SECRET_PARAMETERS = ("token", "access_token", "api_key", "apikey", "p", "password")
"""Query parameters in which a secret may be sent, though never read: addresses end up in logs."""

HOW_TO_SEND = "send it as the header Authorization: Bearer <token>, or as the password of basic authentication"

SOCKET_PROTOCOL = "streamd"
"""The only protocol of a WebSocket that the daemon answers, if it is offered."""

SOCKET_CREDENTIAL_PREFIX = "streamd.token."
"""Begins the protocol in which a page offers its token, percent-encoded: it cannot set a header on a WebSocket."""

_MAX_CREDENTIAL_CHARACTERS = 4_096
_MAX_CERTIFICATE_NAMES = 64


def read_secret(request: web.BaseRequest, *, opens_socket: bool = False) -> str | None:
    """Return the token that the header of a request carries; `None` if it has no such header.

    A request that opens a WebSocket may offer it as a protocol instead. Raises `UnauthorizedError` for two tokens, for
    another scheme, and for credentials that cannot be read.
    """
    sent = request.headers.getall(hdrs.AUTHORIZATION, ())
    offered = list_token_protocols(request) if opens_socket else []
    if sent and offered:
        raise UnauthorizedError("a token is in the header Authorization and among the protocols, expected in one")
    if offered:
        return _parse_token_protocols(offered)
    if not sent:
        return None
    if len(sent) > 1:
        raise UnauthorizedError(f"the header Authorization occurs {len(sent)} times, expected once")
    return parse_authorization(sent[0])


def list_token_protocols(request: web.BaseRequest) -> list[str]:
    """Return the offered protocols that carry a token."""
    return [name for name in _list_offered_protocols(request) if name.lower().startswith(SOCKET_CREDENTIAL_PREFIX)]


def require_socket_protocol(request: web.BaseRequest) -> None:
    """Raise `UnauthorizedError` if a token is offered without `SOCKET_PROTOCOL`, or in one of several headers.

    A browser ends a socket of which no protocol is answered. And aiohttp, which reads the first header only, logs all
    that it offers if it knows none of it.
    """
    if not list_token_protocols(request):
        return
    if SOCKET_PROTOCOL not in _list_offered_protocols(request):
        raise UnauthorizedError(f"a token is offered without the protocol {SOCKET_PROTOCOL}, expected both")
    if len(request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL)) > 1:
        raise UnauthorizedError("the header Sec-WebSocket-Protocol is repeated, expected once with a token")


def _list_offered_protocols(request: web.BaseRequest) -> list[str]:
    """Return the protocols that a request for a WebSocket offers; a token may be among them."""
    values = request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ())
    return [name for value in values for name in map(str.strip, value.split(",")) if name]


def _parse_token_protocols(offered: list[str]) -> str:
    if len(offered) > 1:
        raise UnauthorizedError(f"{len(offered)} tokens are among the protocols, expected one")
    if len(offered[0]) > _MAX_CREDENTIAL_CHARACTERS:
        raise UnauthorizedError(f"the protocol with the token is over {_MAX_CREDENTIAL_CHARACTERS} characters")
    try:
        secret = unquote(offered[0][len(SOCKET_CREDENTIAL_PREFIX) :], errors="strict")
    except UnicodeDecodeError as exc:
        raise UnauthorizedError("the token among the protocols is not UTF-8 in percent-encoding") from exc
    if not secret:
        raise UnauthorizedError(f"the protocol {SOCKET_CREDENTIAL_PREFIX} has no token after it")
    return secret


def parse_authorization(value: str) -> str:
    """Return the token that the value of a header Authorization carries; raises `UnauthorizedError`."""
    scheme, _, credentials = value.strip().partition(" ")
    credentials = credentials.strip()
    if len(credentials) > _MAX_CREDENTIAL_CHARACTERS:
        raise UnauthorizedError(f"the header Authorization is over {_MAX_CREDENTIAL_CHARACTERS} characters")
    if scheme.lower() in TOKEN_SCHEMES and credentials:
        return credentials
    if scheme.lower() == "basic":
        return _read_password(credentials)
    raise UnauthorizedError("the header Authorization has no token, expected Bearer, Token or Basic before it")


def _read_password(credentials: str) -> str:
    """Return the password of basic authentication (RFC 7617), which is the token; the user name does not count."""
    try:
        user_password = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError) as exc:
        raise UnauthorizedError("the credentials of basic authentication are not base64 of UTF-8") from exc
    _, colon, password = user_password.partition(":")
    if not colon or not password:
        raise UnauthorizedError("the credentials of basic authentication have no password, which must be the token")
    return password


def read_certificate_names(request: web.BaseRequest) -> tuple[str, ...]:
    """Return the names in the client certificate of a connection; the handshake has checked the certificate."""
    forwarded = get_forwarded_names(request)
    return list_certificate_names(request.get_extra_info("peercert")) if forwarded is None else forwarded


def list_certificate_names(certificate: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the DNS names of a certificate and its common names, in the form of `ssl.SSLSocket.getpeercert`."""
    if not certificate:
        return ()
    alternatives = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    subject = [value for relative in certificate.get("subject", ()) for key, value in relative if key == "commonName"]
    return tuple(dict.fromkeys((*alternatives, *subject)))[:_MAX_CERTIFICATE_NAMES]


def explain_missing_token(request: web.BaseRequest) -> str:
    """Return why a request without a token is refused, and how to send one."""
    misplaced = next((name for name in SECRET_PARAMETERS if name in request.query), None)
    if misplaced is None:
        return f"this call needs a token: {HOW_TO_SEND}"
    return f"the parameter {misplaced} is not read, since addresses end up in logs: {HOW_TO_SEND}"
