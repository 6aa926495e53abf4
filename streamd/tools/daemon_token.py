"""The token that a command sends to a daemon: from a file or a variable, since all users can see arguments."""

import os
from collections.abc import Mapping
from pathlib import Path

from streamd.core.errors import ConfigError

TOKEN_VARIABLE = "STREAMD_TOKEN"  # noqa: S105 - the name of a variable, not a secret

CERTIFICATE_HELP = (
    "TLS: a certificate of a CA that this machine does not know is accepted if the variable SSL_CERT_FILE names a file "
    "(PEM) with the certificate of that CA"
)


def read_token(path: Path | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the token of a file, or of the variable; empty without one. Raises `ConfigError`."""
    if path is None:
        return environ.get(TOKEN_VARIABLE, "").strip()
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: the token cannot be read: {getattr(exc, 'strerror', None) or 'not ASCII'}") from exc
    if not token or len(token.split()) > 1:
        raise ConfigError(f"{path}: expected one token")
    return token


def make_token_headers(token: str) -> dict[str, str]:
    """Return the header that carries a token; empty without one."""
    return {"Authorization": f"Bearer {token}"} if token else {}
