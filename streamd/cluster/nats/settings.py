"""The settings of a connection to NATS, and the checks of what they name. Connects nothing."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from streamd.core.errors import ConfigError
from streamd.regular_files import read_regular

_CREDENTIAL_PARTS = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")
"""The heads of the parts of a file of credentials."""


@dataclass(frozen=True, kw_only=True)
class NatsSettings:
    """The way to NATS: URLs, the name of this client, a file of credentials, and files of TLS."""

    urls: tuple[str, ...]
    name: str = "streamd"
    credentials: str = ""
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    ping_seconds: float = 1.0
    """The interval of pings; a connection is lost when three are not answered."""
    connect_seconds: float = 3.0
    failing_seconds: float = 10.0
    """A server over which JetStream has not answered for this time is left for another one; elections take less."""

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return bool(self.tls_ca or self.tls_certificate) or any(url.startswith("tls://") for url in self.urls)


def require_nats() -> None:
    """Raise `ConfigError` if the client of NATS is not installed."""
    try:
        import nats.errors  # noqa: F401
    except ImportError as exc:
        raise ConfigError(
            "[cluster] nats: needs the package nats-py, expected streamd[cluster] to be installed"
        ) from exc


def require_credentials(path: str) -> None:
    """Raise `ConfigError` if a file of credentials cannot be read, or nothing is installed to sign with its key."""
    try:
        import nkeys  # type: ignore[import-not-found, unused-ignore] # noqa: F401
    except ImportError as exc:
        raise ConfigError(
            "[cluster] nats_credentials_file: needs the package nkeys, expected streamd[nkeys] to be installed"
        ) from exc
    try:
        content = read_regular(Path(path))
    except OSError as exc:
        raise ConfigError(f"[cluster] nats_credentials_file: {path}: cannot be read: {exc.strerror or exc}") from exc
    for part in _CREDENTIAL_PARTS:
        if part not in content:
            raise ConfigError(
                f"[cluster] nats_credentials_file: {path}: has no part {part.decode()!r}, expected a file that "
                "`nsc generate creds` wrote"
            )


def make_tls_context(settings: NatsSettings) -> ssl.SSLContext | None:
    """Return the context for TLS, `None` without files for it; raises `ConfigError` naming the file."""
    if not settings.uses_tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"[cluster] nats_ca_file: {settings.tls_ca}: cannot be used: {exc}") from exc
    if settings.tls_certificate:
        try:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key or None)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(
                f"[cluster] nats_certificate_file: {settings.tls_certificate}: cannot be used: {exc}"
            ) from exc
    return context
