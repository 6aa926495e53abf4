"""Tests `streamd/http/access/credentials.py`: how a request carries its token, and that no text repeats it."""

import base64
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from streamd.core.errors import UnauthorizedError
from streamd.http.access.credentials import (
    explain_missing_token,
    read_certificate_names,
    read_secret,
    require_socket_protocol,
)

SECRET = "streamd_0123456789ab_" + "c0ffee" * 10


def read(*values: str) -> str | None:
    """Read the token of a request with these headers Authorization."""
    return read_secret(make_mocked_request("GET", "/", CIMultiDict([("Authorization", each) for each in values])))


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {SECRET}",
        f"bearer   {SECRET} ",
        f"Token {SECRET}",
        f"Basic {encode(f'collectd:{SECRET}')}",
        f"BASIC {encode(f':{SECRET}')}",
    ],
)
def test_each_scheme_carries_the_token(value: str) -> None:
    assert read(value) == SECRET


def test_a_password_may_contain_colons() -> None:
    assert read(f"Basic {encode('user:a:b')}") == "a:b"


def test_a_request_without_the_header_carries_none() -> None:
    assert read() is None


@pytest.mark.parametrize(
    "values",
    [
        [f"Bearer {SECRET}", f"Bearer {SECRET}"],
        [SECRET],
        ["Bearer"],
        [f"Digest {SECRET}"],
        [f"Basic {SECRET}!"],
        [f"Basic {encode(SECRET)}"],
        [f"Basic {encode('user:')}"],
        [f"Basic {base64.b64encode(b'u:' + bytes([255])).decode()}"],
        ["Bearer " + SECRET * 100],
        [""],
    ],
)
def test_credentials_that_cannot_be_read_are_refused_without_repeating_them(values: list[str]) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        read(*values)
    assert SECRET not in str(caught.value)
    assert encode(SECRET) not in str(caught.value)


# ---------------------------------------------------------------- a token among the protocols of a WebSocket
def offer(*values: str, authorization: str = "") -> web.Request:
    """Return a request for a WebSocket with these headers Sec-WebSocket-Protocol."""
    headers = CIMultiDict([("Sec-WebSocket-Protocol", each) for each in values])
    if authorization:
        headers["Authorization"] = authorization
    return make_mocked_request("GET", "/v1/forecasts", headers)


@pytest.mark.parametrize(
    ("offered", "secret"),
    [
        (f"streamd, streamd.token.{SECRET}", SECRET),
        (f"streamd.token.{SECRET},streamd", SECRET),
        ("streamd, streamd.token.a%2Fb%3D%20%C3%BC%25", "a/b= ü%"),
        ("streamd", None),
        ("streamd, streamd.tokens", None),
    ],
)
def test_a_page_offers_its_token_as_a_protocol(offered: str, secret: str | None) -> None:
    request = offer(offered)
    require_socket_protocol(request)
    assert read_secret(request, opens_socket=True) == secret


def test_protocols_are_not_read_where_no_socket_is_opened() -> None:
    assert read_secret(offer(f"streamd, streamd.token.{SECRET}")) is None


@pytest.mark.parametrize(
    "values",
    [
        [f"streamd.token.{SECRET}, streamd.token.{SECRET}"],
        [f"streamd.token.{SECRET}", f"STREAMD.TOKEN.{SECRET}"],
        ["streamd.token."],
        ["streamd.token.%FF"],
        ["streamd.token." + SECRET * 100],
    ],
)
def test_protocols_whose_token_cannot_be_read_are_refused_without_repeating_it(values: list[str]) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        read_secret(offer("streamd", *values), opens_socket=True)
    assert SECRET not in str(caught.value)


def test_a_token_in_both_places_is_refused() -> None:
    request = offer(f"streamd, streamd.token.{SECRET}", authorization=f"Bearer {SECRET}")
    with pytest.raises(UnauthorizedError, match="expected in one") as caught:
        read_secret(request, opens_socket=True)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [[f"streamd.token.{SECRET}"], [f"Streamd.Token.{SECRET}, other"], [f"streamd.token.{SECRET}", "streamd"]],
)
def test_an_offer_that_a_library_would_log_is_refused(values: list[str]) -> None:
    with pytest.raises(UnauthorizedError, match="expected") as caught:
        require_socket_protocol(offer(*values))
    assert SECRET not in str(caught.value)


def test_other_protocols_may_be_offered() -> None:
    require_socket_protocol(offer("graphql-ws, mqtt", "soap"))


# ---------------------------------------------------------------- secrets in addresses
@pytest.mark.parametrize("name", ["token", "p", "access_token"])
def test_a_secret_in_the_address_is_not_read_and_the_error_says_where_to_put_it(name: str) -> None:
    request = make_mocked_request("GET", f"/write?db=x&{name}={SECRET}")
    assert read_secret(request) is None
    message = explain_missing_token(request)
    assert f"the parameter {name} is not read" in message
    assert "Authorization: Bearer" in message
    assert SECRET not in message


class CertifiedRequest:
    """A request over a connection with this client certificate; no process has forwarded it."""

    def __init__(self, certificate: Any) -> None:
        self._certificate = certificate

    def get(self, _key: web.RequestKey[Any]) -> None:
        """Return the value under a key; a request that was not forwarded has none."""
        return

    def get_extra_info(self, name: str) -> Any:
        return {"peercert": self._certificate}[name]


@pytest.mark.parametrize(
    ("certificate", "names"),
    [
        (None, ()),
        ({}, ()),
        ({"subject": ((("organizationName", "x"),), (("commonName", "web-01"),))}, ("web-01",)),
        (
            {
                "subject": ((("commonName", "web"),),),
                "subjectAltName": (("DNS", "web-01"), ("IP Address", "::1"), ("DNS", "web")),
            },
            ("web-01", "web"),
        ),
    ],
)
def test_the_names_of_a_client_certificate_are_read(certificate: Any, names: tuple[str, ...]) -> None:
    request: Any = CertifiedRequest(certificate)
    assert read_certificate_names(request) == names
