"""The actions of `streamd cluster`: reads heartbeats and tables, and changes the table that all nodes follow."""

import argparse
import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any

import structlog

from streamd.cluster.log import Entry, Log, LogAwayError, LogMissingError
from streamd.cluster.meta import META_KEY, decode_meta
from streamd.cluster.nats.log import NatsLog
from streamd.cluster.nats.settings import NatsSettings
from streamd.cluster.nodes.heartbeats import listen_for_heartbeats
from streamd.cluster.nodes.lease_entries import decode_lease, parse_lease_key
from streamd.cluster.nodes.operator_requests import DRAIN_KEY, REBALANCE_KEY
from streamd.core.cluster.lease_actions import Lease
from streamd.core.cluster.membership import Heartbeat
from streamd.core.cluster.shards import ClusterNames
from streamd.tools.cluster.errors import ClusterCommandError
from streamd.tools.cluster.place import PLACE_KEYS, ClusterPlace, find_cluster
from streamd.tools.cluster.status import ClusterStatus, format_status

NATS_CONNECT_SECONDS = 5.0

LISTEN_SECONDS = 1.2
"""Two heartbeats of each node come in this time."""

PATIENT_SECONDS = 1.8
"""So much longer, if the holder of a lease was not heard: it may be busy, as a node that starts is."""

UNOWNED_STATUS = 3


def run_cluster_action(args: argparse.Namespace) -> int:
    """Run the action that the arguments name. Raises `ConfigError` and `ClusterCommandError`."""
    place = find_cluster({key: getattr(args, key) for key in PLACE_KEYS}, args.config)
    with _without_logs():
        return asyncio.run(_run(place, args))


@contextmanager
def _without_logs() -> Iterator[None]:
    """Run a block that logs nothing: what a program reads on standard output is the answer alone."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


async def _run(place: ClusterPlace, args: argparse.Namespace) -> int:
    settings = NatsSettings(
        urls=place.urls,
        name="streamd cluster",
        credentials=place.credentials,
        tls_ca=place.tls_ca,
        tls_certificate=place.tls_certificate,
        tls_key=place.tls_key,
    )
    cluster_log = NatsLog(settings)
    try:
        await cluster_log.start(NATS_CONNECT_SECONDS)
        if not cluster_log.is_connected:
            raise ClusterCommandError(f"none of the servers {place.shown} can be used: {cluster_log.problem}")
        return await run_action(cluster_log, ClusterNames(place.name), args)
    except LogAwayError as exc:
        raise ClusterCommandError(f"the cluster {place.name!r} cannot be read: {exc}") from exc
    finally:
        await cluster_log.close()


async def run_action(cluster_log: Log, names: ClusterNames, args: argparse.Namespace) -> int:
    """Run an action over a connection. Raises `ClusterCommandError`, `LogAwayError`."""
    reader = ClusterReader(cluster_log, names)
    if args.action == "status":
        status = await reader.read()
        print(json.dumps(status.describe(), indent=2) if args.json else format_status(status, with_shards=args.shards))
        return UNOWNED_STATUS if status.unowned else 0
    if args.action == "drain":
        return await _drain(reader, args.node, args.timeout)
    if args.action == "undrain":
        return await _undrain(reader, args.node)
    return await _rebalance(reader, args.timeout)


class ClusterReader:
    """Reads a cluster, and changes its table `control`."""

    def __init__(self, cluster_log: Log, names: ClusterNames) -> None:
        self._log = cluster_log
        self.names = names
        self.control = cluster_log.table(names.bucket("control"))
        self._leases = cluster_log.table(names.bucket("leases"))

    async def read(self) -> ClusterStatus:
        """Return the living nodes, and which one has which shard.

        Raises `ClusterCommandError` if NATS has no such cluster.
        """
        control = await self._read_control()
        meta = decode_meta(control[META_KEY].value)
        leases, fences = {}, {}
        for key, entry in (await self._leases.read_all()).items():
            if (shard := parse_lease_key(key)) is not None:
                leases[shard] = decode_lease(entry.value) or Lease()
                fences[shard] = entry.revision
        heartbeats = await self._listen({lease.node for lease in leases.values() if lease.node})
        drained = {key.partition(".")[2] for key in control if key.startswith(f"{DRAIN_KEY}.")}
        return ClusterStatus(
            name=self.names.name,
            shards=meta.shards,
            heartbeats=heartbeats,
            leases=leases,
            fences=fences,
            drained=frozenset(drained),
            now=time.time(),
        )

    async def _read_control(self) -> dict[str, Entry]:
        try:
            control = await self.control.read_all()
        except LogMissingError:
            control = {}
        if META_KEY not in control:
            raise ClusterCommandError(
                f"NATS has no cluster {self.names.name!r}: no node of it has joined yet, or its bucket "
                f"{self.names.bucket('control')} was deleted"
            )
        return control

    async def _listen(self, holders: AbstractSet[str]) -> list[Heartbeat]:
        heard = await listen_for_heartbeats(self._log, self.names, LISTEN_SECONDS)
        if holders <= {each.node for each in heard}:
            return heard
        later = await listen_for_heartbeats(self._log, self.names, PATIENT_SECONDS)
        newest = {each.node: each for each in (*heard, *later)}
        return [newest[node] for node in sorted(newest)]

    async def require_node(self, node: str, *, known: bool) -> ClusterStatus:
        """Return the status; raises `ClusterCommandError` if no node of this name lives, or is `known` as drained."""
        status = await self.read()
        names = sorted({each.node for each in status.heartbeats} | (status.drained if known else frozenset()))
        if node not in names:
            expected = f"expected one of {', '.join(names)}" if names else "and no other one either"
            raise ClusterCommandError(f"no node {node!r} is there, {expected}")
        return status

    async def wait_for(self, is_done: Callable[[ClusterStatus], bool], seconds: float, what: str) -> None:
        """Read until it is done, and say how far it is. Raises `ClusterCommandError` if it takes longer."""
        deadline = time.monotonic() + seconds
        while not is_done(status := await self.read()):
            if time.monotonic() >= deadline:
                raise ClusterCommandError(
                    f"{what} after {seconds:g} s; the nodes go on with it, see: streamd cluster status"
                )
            print(_describe_counts(status.heartbeats), file=sys.stderr)


async def _drain(reader: ClusterReader, node: str, seconds: float) -> int:
    status = await reader.require_node(node, known=False)
    order: dict[str, Any] = {"since": time.time()}
    await reader.control.put(f"{DRAIN_KEY}.{node}", json.dumps(order).encode())
    others = [each for each in status.heartbeats if each.node != node and each.node not in status.drained]
    if not others:
        print(f"{node} keeps its shards until there is another node", file=sys.stderr)
        return 0
    if seconds > 0:
        await reader.wait_for(lambda now: not now.count_shards(node), seconds, f"{node} still has shards")
        print(f"{node} has no shards; it gets none until: streamd cluster undrain {node}", file=sys.stderr)
    return 0


async def _undrain(reader: ClusterReader, node: str) -> int:
    status = await reader.require_node(node, known=True)
    if node not in status.drained:
        raise ClusterCommandError(f"the node {node!r} is not drained")
    await reader.control.delete(f"{DRAIN_KEY}.{node}")
    print(
        f"{node} gets shards again once no node has come or gone for rebalance_delay_seconds; at once: streamd cluster "
        "rebalance",
        file=sys.stderr,
    )
    return 0


async def _rebalance(reader: ClusterReader, seconds: float) -> int:
    await reader.read()
    await reader.control.put(REBALANCE_KEY, json.dumps({"when": time.time()}).encode())
    if seconds > 0:
        await reader.wait_for(lambda now: now.is_balanced, seconds, "the shards are not balanced")
        print("the shards are balanced", file=sys.stderr)
    return 0


def _describe_counts(heartbeats: list[Heartbeat]) -> str:
    return "shards: " + ", ".join(f"{each.node} {len(each.shards)}" for each in heartbeats)
