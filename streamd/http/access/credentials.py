"""The credentials of a request: the token in its header, or the client certificate of its connection.

Reads the request only; `core/access` knows the tokens. No text here repeats what was sent: it may be a secret.
"""

import base64
import binascii
from typing import Any

from aiohttp import hdrs, web

from streamd.core.errors import UnauthorizedError
from streamd.http.access.forwarded import get_forwarded_names

TOKEN_SCHEMES = ("bearer", "token")
"""Schemes whose credentials are the token: that of RFC 6750, and that of InfluxDB 2."""

SECRET_PARAMETERS = ("token", "access_token", "api_key", "apikey", "p", "password")
"""Query parameters in which a secret may be sent, though never read: addresses end up in logs."""

HOW_TO_SEND = "send it as the header Authorization: Bearer <token>, or as the password of basic authentication"

_MAX_CREDENTIAL_CHARACTERS = 4_096
_MAX_CERTIFICATE_NAMES = 64


def read_secret(request: web.BaseRequest) -> str | None:
    """Return the token that the header of a request carries; `None` if it has no such header.

    Raises `UnauthorizedError` for two headers, for another scheme, and for credentials that cannot be read.
    """
    sent = request.headers.getall(hdrs.AUTHORIZATION, ())
    if not sent:
        return None
    if len(sent) > 1:
        raise UnauthorizedError(f"the header Authorization occurs {len(sent)} times, expected once")
    return parse_authorization(sent[0])


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
