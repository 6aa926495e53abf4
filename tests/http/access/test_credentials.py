"""Tests `streamd/http/access/credentials.py`: how a request carries its token, and that no text repeats it."""

import base64
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from streamd.core.errors import UnauthorizedError
from streamd.http.access.credentials import explain_missing_token, read_certificate_names, read_secret

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
