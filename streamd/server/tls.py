"""TLS: contexts made from the files of the settings, and a listening context that always uses the newest one.

Opens no socket. Keys stay in OpenSSL; nothing here logs or shows one.
"""

import hashlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from streamd.core.errors import ConfigError
from streamd.server.access.guarded_files import read_guarded
from streamd.server.certificate_dates import read_certificate_expiry
from streamd.server.config import AccessSection


@dataclass(frozen=True)
class TlsFiles:
    """The files of TLS, each in PEM: the certificate with its chain, its key, and the CAs of client certificates."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """With it, each connection must present a certificate of one of these CAs."""

    def __iter__(self) -> Iterator[Path]:
        yield from (self.certificate, self.key)
        if self.client_ca is not None:
            yield self.client_ca


@dataclass(frozen=True)
class LoadedTls:
    """A context, equal to another one if it was made from the same bytes."""

    digest: bytes
    client_ca_digest: bytes
    context: ssl.SSLContext = field(compare=False)
    expires: float = field(compare=False, default=0.0)
    """The end of validity of the certificate, in epoch seconds."""


class TlsSwitch:
    """The context to listen with: a new connection gets the newest certificate, and open ones stay as they are.

    The server keeps the context that it was started with, so each handshake is passed on to the newest one. The first
    context stays responsible for whether a client certificate is required, and for sessions that are resumed.
    """

    def __init__(self, first: LoadedTls) -> None:
        self.context = first.context
        self._first = self._newest = first
        self.context.sni_callback = self._choose_context

    def use(self, loaded: LoadedTls) -> bool:
        """Use a context for all connections from now on; return whether it trusts other client CAs than before."""
        has_other_ca = loaded.client_ca_digest != self._newest.client_ca_digest
        self._newest = loaded
        return has_other_ca

    def _choose_context(self, connection: ssl.SSLObject, _name: str | None, _listening: ssl.SSLContext) -> int | None:
        # OpenSSL calls this for each handshake, also if the client names no server.
        has_other_ca = self._newest.client_ca_digest != self._first.client_ca_digest
        if connection.session_reused and has_other_ca:
            # The client certificate was checked against a CA that no longer counts, and would not be checked again.
            return ssl.ALERT_DESCRIPTION_ACCESS_DENIED
        connection.context = self._newest.context
        return None


def find_tls_files(settings: AccessSection) -> TlsFiles | None:
    """Return the files of TLS that the settings name; `None` without TLS."""
    if not settings.tls_certificate:
        return None
    client_ca = Path(settings.tls_client_ca) if settings.tls_client_ca else None
    return TlsFiles(Path(settings.tls_certificate), Path(settings.tls_key), client_ca)


def load_tls(files: TlsFiles) -> LoadedTls:
    """Make a context from the files; raises `ConfigError` naming the file that cannot be used."""
    certificate = read_guarded(files.certificate, "the certificate", is_secret=False)
    key = read_guarded(files.key, "the key of the certificate")
    client_ca = b""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # No client starts handshakes over and over on one connection. No tickets: connections live long, and a client that
    # resumes a session skips the check of its certificate.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_refuse_password)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{files.certificate}: cannot be used with the key {files.key}: {_explain(exc)}") from exc
    if files.client_ca is not None:
        client_ca = read_guarded(files.client_ca, "the certificate of the client CA", is_secret=False)
        try:
            context.load_verify_locations(files.client_ca)
        except OSError as exc:
            raise ConfigError(f"{files.client_ca}: has no certificates of CAs: {_explain(exc)}") from exc
        context.verify_mode = ssl.CERT_REQUIRED
    expires = read_certificate_expiry(certificate, str(files.certificate))
    return LoadedTls(_digest(certificate, key, client_ca), _digest(client_ca), context, expires)


def _refuse_password() -> str:
    # Otherwise OpenSSL would ask for it on the terminal, and wait.
    raise ValueError("the key is encrypted, expected one without a password")


def _explain(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or str(exc)).lower().replace("_", " ")
    return str(exc)


def _digest(*contents: bytes) -> bytes:
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).digest()
