"""Refuses to listen beyond this machine while every caller would be served."""

import ipaddress
from collections.abc import Iterable

import structlog

from streamd.core.errors import ConfigError
from streamd.server.config import AccessSection
from streamd.server.listening import ListenAddress

log = structlog.get_logger(__name__)


def require_protection(addresses: Iterable[ListenAddress], settings: AccessSection, *, has_tokens: bool) -> None:
    """Raise `ConfigError` if callers of other machines reach an address and need neither a token nor a certificate.

    With `insecure = true` it logs a warning instead. The addresses are the bound ones, so that a host's name counts by
    what it stands for, and a socket of systemd as one of ours. A Unix socket is on this machine.
    """
    exposed = [str(address) for address in addresses if not is_on_loopback(address)]
    if not exposed or has_tokens or settings.tls_client_ca:
        return
    if settings.insecure:
        log.warning("serves_everybody", addresses=exposed, reason="insecure = true, without tokens or a client CA")
        return
    raise ConfigError(
        f"[server] host: other machines reach {', '.join(exposed)}, and every caller would be served: "
        "set tokens_file or tls_client_ca in [access] (`streamd token create` makes a token), "
        'or host = "127.0.0.1", or insecure = true if the network itself keeps strangers out'
    )


def is_on_loopback(address: ListenAddress) -> bool:
    """Whether only this machine reaches an address."""
    if address.is_unix:
        return True
    parsed = ipaddress.ip_address(address.host)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
