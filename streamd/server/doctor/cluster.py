"""Checks of what a node of a cluster needs: the client of NATS, servers that answer, and the settings of the others.

Reads from NATS and writes nothing there. A daemon that is alone has nothing to check.
"""

import asyncio
from collections.abc import Iterator

from streamd.cluster.log import Log, LogAwayError, LogMissingError
from streamd.cluster.meta import read_meta
from streamd.cluster.nats.refusals import show_server
from streamd.cluster.nats.streams import BUCKET_PREFIX
from streamd.core.cluster.shards import ClusterNames
from streamd.core.errors import ConfigError
from streamd.server.cluster.connecting import MakeLog, make_nats_log
from streamd.server.config import Config
from streamd.server.doctor.findings import Finding, make_error, make_ok

NATS_ANSWER_SECONDS = 5.0
"""The time for NATS to answer, once connected; an election of its servers takes longer, and is reported so."""

CLUSTER_SUBJECT = "cluster"


def check_cluster(config: Config, make_log: MakeLog = make_nats_log) -> Iterator[Finding]:
    """Check whether this host can be a node of the cluster that the settings name."""
    if not config.cluster.urls:
        return
    try:
        events, connect = make_log(config, "doctor")
    except ConfigError as exc:
        yield make_error(CLUSTER_SUBJECT, str(exc), "pip install 'streamd[cluster]', or correct the section `cluster`")
        return

    async def examine() -> list[Finding]:
        try:
            await connect()
            return await _examine(events, config)
        finally:
            await events.close()

    yield from asyncio.run(examine())


async def _examine(events: Log, config: Config) -> list[Finding]:
    shown = ", ".join(map(show_server, config.cluster.urls))
    if not events.is_connected:
        return [
            make_error(
                CLUSTER_SUBJECT,
                f"{shown}: none of these servers of NATS can be used: {events.problem or 'no answer'}",
                "correct the section `cluster`, or see the log of nats-server",
            )
        ]
    name = config.cluster.cluster_name
    bucket = ClusterNames(name).bucket("control")
    try:
        async with asyncio.timeout(NATS_ANSWER_SECONDS):
            await events.read_state(f"{BUCKET_PREFIX}{bucket}")
            found = await read_meta(events.table(bucket))
    except LogMissingError:
        return [make_ok(CLUSTER_SUBJECT, f"{shown}: NATS answers, and no node of the cluster {name!r} was there yet")]
    except (LogAwayError, TimeoutError) as exc:
        text = f"{shown}: JetStream does not answer: {str(exc) or f'nothing in {NATS_ANSWER_SECONDS:g} s'}"
        return [make_error(CLUSTER_SUBJECT, text, "start nats-server with JetStream, most of its servers; see its log")]
    except ConfigError as exc:
        return [make_error(CLUSTER_SUBJECT, f"{shown}: {exc}", "run the release of the other nodes")]
    if found is None:
        return [make_ok(CLUSTER_SUBJECT, f"{shown}: NATS answers, and no node of the cluster {name!r} was there yet")]
    if found.shards != config.cluster.shards:
        text = f"[cluster] shards is {config.cluster.shards}, expected {found.shards}, as the cluster {name!r} has"
        return [make_error(CLUSTER_SUBJECT, text, "set it so: the first node has fixed it")]
    return [make_ok(CLUSTER_SUBJECT, f"{shown}: NATS answers, and has the cluster {name!r} of {found.shards} shards")]
