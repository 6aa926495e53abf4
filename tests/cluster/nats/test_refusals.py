"""Tests `streamd/cluster/nats/refusals.py`: logins in URLs, and the setting that is at fault."""

import ssl

import pytest

from streamd.cluster.nats.refusals import describe_refusal, split_login
from streamd.cluster.nats.settings import NatsSettings

PLAIN = NatsSettings(urls=("nats://a:4222",))
TLS = NatsSettings(urls=("tls://a:4222",), credentials="/a.creds")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nats://a:4222", ("nats://a:4222", {})),
        ("tls://u:p%40%3A%2F@a:4222", ("tls://a:4222", {"user": "u", "password": "p@:/"})),
        ("nats://t%25@[::1]:4222", ("nats://[::1]:4222", {"token": "t%"})),
    ],
)
def test_a_login_is_taken_out_of_its_url_and_decoded(url: str, expected: tuple[str, dict[str, str]]) -> None:
    assert split_login(url) == expected


@pytest.mark.parametrize(
    ("error", "settings", "expected"),
    [
        (OSError("refused"), PLAIN, "a:4222: refused"),
        (TimeoutError(), PLAIN, "a:4222: TimeoutError"),
        (OSError("nats: 'Authorization Violation'"), PLAIN, "[cluster] nats to name a user"),
        (OSError("nats: 'Authorization Violation'"), TLS, "[cluster] nats_credentials_file to name a user"),
        (ssl.SSLCertVerificationError("x"), TLS, "[cluster] nats_ca_file to have the CA"),
        (ssl.SSLError("bad certificate"), TLS, "[cluster] nats_certificate_file to be signed"),
        (OSError("Connection lost"), TLS, "[cluster] nats_certificate_file to be signed"),
        (BrokenPipeError(32, "Broken pipe"), TLS, "[cluster] nats_certificate_file to be signed"),
        (OSError("Connection lost"), PLAIN, "a:4222: Connection lost"),
        (OSError("the server does not use TLS"), TLS, "[cluster] nats to begin with tls://"),
    ],
)
def test_a_refusal_names_the_server_and_the_setting(error: OSError, settings: NatsSettings, expected: str) -> None:
    text = describe_refusal(error, "nats://user:secret@a:4222", settings)
    assert expected in text
    assert text.startswith("a:4222: ")
    assert ("; expected" in text) == ("[cluster]" in expected)
