"""Says why a server of NATS could not be used, and which setting may be at fault. Connects nothing."""

import ssl
from urllib.parse import unquote, urlsplit

from streamd.cluster.nats.settings import NatsSettings

_UNAUTHORIZED = ("authorization violation", "user authentication", "authentication expired", "authentication revoked")
"""The words of NATS for a user that it does not admit."""

_CUT_OFF = ("connection lost", "connection reset", "broken pipe", "unexpected eof", "eof occurred")
"""The words for a connection that its server ended without a reason."""


def show_server(url: str) -> str:
    """Return the host and port of a URL, without its password."""
    return url.rpartition("//")[2].rpartition("@")[2]


def split_login(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without its login, and the login as options of the client: it takes `%40` in a password as it is."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, {}
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.password is None:
        return plain, {"token": unquote(parts.username)}
    return plain, {"user": unquote(parts.username), "password": unquote(parts.password)}


def describe_refusal(error: BaseException, url: str, settings: NatsSettings) -> str:
    """Return why there is no connection to the server of a URL, with the setting that may be at fault."""
    text = str(error) or type(error).__name__
    return f"{show_server(url)}: {text}{_find_remedy(error, text.lower(), settings)}"


def _find_remedy(error: BaseException, words: str, settings: NatsSettings) -> str:
    if any(each in words for each in _UNAUTHORIZED):
        login = "nats_credentials_file" if settings.credentials else "nats"
        return f"; expected [cluster] {login} to name a user that NATS admits"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "; expected [cluster] nats_ca_file to have the CA of its certificate, and the URL a name that is in it"
    if isinstance(error, ssl.SSLError) or (settings.uses_tls and any(each in words for each in _CUT_OFF)):
        return "; expected [cluster] nats_certificate_file to be signed by a CA that this server trusts"
    if "tls" in words:
        return "; expected [cluster] nats to begin with tls:// for servers with TLS, and for no others"
    return ""
