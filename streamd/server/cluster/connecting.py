"""The log of a node by the settings of its daemon: over NATS, whose client only a node of a cluster needs."""

from collections.abc import Awaitable, Callable

from streamd.cluster.log import Log
from streamd.core.cluster.shards import NAME_PATTERN
from streamd.core.errors import ConfigError
from streamd.server.config import Config

ConnectLog = Callable[[], Awaitable[None]]
"""Begins to connect a log; returns after a moment also without a connection."""
MakeLog = Callable[[Config, str], tuple[Log, ConnectLog]]
"""Makes the log of a node, given its name."""


def make_nats_log(config: Config, node: str) -> tuple[Log, ConnectLog]:
    """Return the log over NATS; raises `ConfigError` if its client is not installed, or a file cannot be used."""
    from streamd.cluster.nats.log import NatsLog
    from streamd.cluster.nats.settings import NatsSettings

    settings = config.cluster
    made = NatsLog(
        NatsSettings(
            urls=settings.urls,
            name=f"streamd {node}",
            credentials=settings.nats_credentials_file,
            tls_ca=settings.nats_ca_file,
            tls_certificate=settings.nats_certificate_file,
            tls_key=settings.nats_key_file,
        ),
        replicas=settings.replicas,
    )
    return made, made.start


def make_node_name(host: str) -> str:
    """Return a host's name as that of a node: dots become dashes. Raises `ConfigError` if it cannot be one."""
    name = host.replace(".", "-")
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(f"[cluster] node: is empty, and the host's name {host!r} cannot be used, expected a name")
    return name
