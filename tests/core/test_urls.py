"""Tests `streamd/core/urls.py`."""

import pytest

from streamd.core.urls import is_http_url


@pytest.mark.parametrize(
    "text",
    [
        "http://alertmanager:9093",
        "https://user:word@host.example/path/?a=b",
        "http://[::1]:9093/",
        "http://10.0.0.1",
        "http://é.example",
    ],
)
def test_urls_that_a_request_can_be_sent_to(text: str) -> None:
    assert is_http_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host:9093",
        "ftp://host",
        "http://",
        "http://?a",
        "http://:9093",
        "http://user@",
        "http://host:99999",
        "http://host:0",
        "http://host:port",
        "http://[::1",
        "http://host/a b",
        "http://host/#part",
        "http://host/\x00",
        "http://host\r\nX: y",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    assert not is_http_url(text)
