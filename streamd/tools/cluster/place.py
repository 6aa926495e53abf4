"""Finds the cluster that a command is for: by flags, else by the daemon's variables, else by the file of settings."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamd.core.cluster.shards import NAME_PATTERN
from streamd.core.errors import ConfigError
from streamd.regular_files import read_regular

NATS_VARIABLE = "STREAMD_NATS"
"""The daemon's variable for its setting `nats`; as there, it beats the file of settings."""

_FILES = ("nats_credentials_file", "nats_ca_file", "nats_certificate_file", "nats_key_file")
PLACE_KEYS = ("nats", "cluster_name", *_FILES)
"""The keys of the settings that say where a cluster is."""


@dataclass(frozen=True, kw_only=True)
class ClusterPlace:
    """The way to reach a cluster, and its name; files are paths, or empty."""

    urls: tuple[str, ...]
    name: str = "streamd"
    credentials: str = ""
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""

    @property
    def shown(self) -> str:
        """The URLs without passwords."""
        return ", ".join(url.rpartition("@")[2] for url in self.urls)


def find_cluster(
    flags: Mapping[str, str | None], config: Path | None, environ: Mapping[str, str] = os.environ
) -> ClusterPlace:
    """Return the place; `flags` are by key. Raises `ConfigError` if no cluster is named, or its name is none."""
    found = {} if config is None else _read_section(config)
    for key in PLACE_KEYS:
        value = flags.get(key) or environ.get(f"STREAMD_{key.upper()}")
        if value:
            found[key] = value
    urls = tuple(url.strip() for url in found.get("nats", "").split(",") if url.strip())
    if not urls:
        raise ConfigError(
            f"no cluster is named: give --cluster nats://HOST:4222 or --config FILE, or set {NATS_VARIABLE}"
        )
    name = found.get("cluster_name", "streamd")
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(f"the name of the cluster is {name!r}, expected 1 to 64 letters, digits, _ or -")
    credentials, tls_ca, tls_certificate, tls_key = (found.get(key, "") for key in _FILES)
    return ClusterPlace(
        urls=urls,
        name=name,
        credentials=credentials,
        tls_ca=tls_ca,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
    )


def _read_section(config: Path) -> dict[str, str]:
    """Return the texts of the section `cluster`; files are relative to the folder of the settings, as in the daemon."""
    try:
        settings = tomllib.loads(read_regular(config).decode())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{config}: cannot be read: {exc}") from exc
    section: Any = settings.get("cluster", {})
    if not isinstance(section, dict):
        raise ConfigError(f"{config}: cluster is no section, expected [cluster]")
    found = {key: section[key] for key in PLACE_KEYS if isinstance(section.get(key), str) and section[key]}
    return {key: str(config.parent / value) if key in _FILES else value for key, value in found.items()}
