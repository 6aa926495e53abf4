"""Shards of a fleet, and the subjects and streams of a cluster in NATS.

The shard of a server is the same in each version of streamd and on each machine: logs outlive both.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from urllib.parse import quote

import numpy as np

from streamd.core.arrays import Slots

MAX_SHARDS = 1_024
"""Each shard has three streams, and a server of NATS bears a few thousand of them."""

STEP_PARTS = 8
"""The records of a shard's forecast steps: each has the servers of one part, so that it fits in one message."""

NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The names of clusters and nodes: parts of subjects and of streams."""


def find_shard(server: str, shards: int) -> int:
    """Return the shard of a server, from 0 to `shards` - 1."""
    digest = blake2b(server.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % shards


def find_shards(servers: Sequence[str], shards: int) -> Slots:
    """Return the shards of servers, `(n,)`."""
    return np.fromiter((find_shard(server, shards) for server in servers), np.int64, len(servers))


def find_step_part(server: str) -> int:
    """Return which of its shard's step records has a server, from 0 to `STEP_PARTS` - 1."""
    digest = blake2b(server.encode("utf-8", "surrogatepass"), digest_size=8, person=b"steps").digest()
    return int.from_bytes(digest, "little") % STEP_PARTS


def find_alert_part(server: str, parts: int) -> int:
    """Return which of its shard's records of alerts has a server, from 0 to `parts` - 1."""
    digest = blake2b(server.encode("utf-8", "surrogatepass"), digest_size=8, person=b"alerts").digest()
    return int.from_bytes(digest, "little") % parts


def make_server_token(server: str) -> str:
    """Return a server's name as the end of a subject: its parts between dots, with other characters percent-encoded.

    An empty part, which a subject cannot have, is written `%`.
    """
    parts = (quote(part, safe="-_~:@+=,;!()[]{}/|$&'", errors="surrogatepass") for part in server.split("."))
    return ".".join(part or "%" for part in parts)


@dataclass(frozen=True)
class ClusterNames:
    """The subjects, streams and buckets of the cluster called `name`."""

    name: str

    @property
    def prefix(self) -> str:
        """The beginning of all subjects but those of single servers."""
        return f"streamd.{self.name}"

    def rows_stream(self, shard: int) -> str:
        """Return the stream of a shard's row log: its rows alone, so that a reader sees whether one is missing."""
        return f"{self.name}_rows_{shard}"

    def windows_stream(self, shard: int) -> str:
        """Return the stream of a shard's window snapshots."""
        return f"{self.name}_windows_{shard}"

    def forecasts_stream(self, shard: int) -> str:
        """Return the stream of a shard's chain, whose sequence each append states: forecasts, and records of steps."""
        return f"{self.name}_forecasts_{shard}"

    def rows(self, shard: int) -> str:
        """Return the subject of a shard's rows."""
        return f"{self.prefix}.rows.{shard}"

    def windows(self, shard: int, chunk: int | str = "*") -> str:
        """Return the subject of one of a shard's window snapshots; of all without `chunk`."""
        return f"{self.prefix}.windows.{shard}.{chunk}"

    def windows_owner(self, shard: int) -> str:
        """Return the subject of the marker among a shard's window snapshots, of their newest owner."""
        return self.windows(shard, "owner")

    def forecasts(self, shard: int) -> str:
        """Return the subject of a shard's chain of forecasts."""
        return f"{self.prefix}.forecasts.{shard}"

    def steps(self, shard: int, part: int | str = "*") -> str:
        """Return the subject of a record of the newest forecast steps of a shard's servers; of all without `part`."""
        return f"{self.prefix}.steps.{shard}.{part}"

    def node(self, node: str = "*") -> str:
        """Return the subject of a node's heartbeats; of all nodes' without `node`."""
        return f"{self.prefix}.nodes.{node}"

    def ask(self, node: str, verb: str) -> str:
        """Return the subject of a request to a node."""
        return f"{self.prefix}.ask.{node}.{verb}"

    def server_forecasts(self, server: str) -> str:
        """Return the subject of one server's forecasts."""
        token = make_server_token(server)
        return f"forecast.{token}" if self.name == "streamd" else f"{self.name}.forecast.{token}"

    def bucket(self, table: str) -> str:
        """Return the key-value bucket of a table: `leases`, `control` or `alerts`."""
        return f"{self.name}_{table}"
