"""Makes the streams and buckets of a cluster in JetStream, or compares those that are there."""

import asyncio
import json
from collections.abc import Mapping

import msgspec
import structlog

from streamd.cluster.log import LogAwayError, LogFullError, LogSettingsError, StreamPlan
from streamd.cluster.nats.api import JetStreamApi
from streamd.cluster.nats.errors import STREAM_NOT_FOUND

log = structlog.get_logger(__name__)

_CREATE_SECONDS = 10.0
"""How long servers take that have many streams to place."""

_FIND_TRIES, _FIND_AGAIN_SECONDS = 5, 0.1
"""Looks for a stream that another node is making, until it is there."""

_DUPLICATE_SECONDS = 120.0
"""How long a stream remembers the ids of messages."""

BUCKET_PREFIX = "KV_"

_ADJUSTABLE = {"max_bytes", "max_age", "num_replicas", "duplicate_window"}
"""What may differ: the node that starts last sets it, so that a rolling restart changes it."""

_MISSING: dict[str, object] = {"max_age": 0, "allow_rollup_hdrs": False, "deny_delete": False}
"""What servers leave out of their answer if it is not set."""


KEPT_SHARE = 0.75
"""A stream that has more than this share of a lower limit keeps its former one."""


class _Extent(msgspec.Struct):
    bytes: int = 0


class _Info(msgspec.Struct):
    config: dict[str, object]
    cluster: object = None
    """Its leader and followers; servers of 2.9 without a cluster leave it out."""
    state: _Extent = msgspec.field(default_factory=_Extent)


def make_stream_config(plan: StreamPlan, replicas: int) -> dict[str, object]:
    """Return the settings of a stream as JetStream takes them."""
    config: dict[str, object] = {
        "name": plan.name,
        "subjects": list(plan.subjects),
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "discard": "new",
        "max_bytes": plan.max_bytes,
        "max_age": 0,
        "duplicate_window": int(_DUPLICATE_SECONDS * 1e9),
        "allow_rollup_hdrs": plan.allows_rollup,
    }
    return config


def make_bucket_config(bucket: str, replicas: int) -> dict[str, object]:
    """Return the settings of the stream of a key-value bucket."""
    plan = StreamPlan(name=f"{BUCKET_PREFIX}{bucket}", subjects=(f"$KV.{bucket}.>",), allows_rollup=True)
    return make_stream_config(plan, replicas) | {"max_msgs_per_subject": 1, "deny_delete": True, "allow_direct": True}


async def make_stream(api: JetStreamApi, config: Mapping[str, object]) -> None:
    """Make a stream, or compare the one that is there, and set its limits.

    Raises `LogSettingsError` if it is there with other settings, or cannot be made, `LogAwayError`.
    """
    name = str(config["name"])
    info = await _find(api, name) or await _create(api, config)
    if info is None:
        return
    found = info.config
    config = _keep_limit(info, config)
    different = {key for key, value in config.items() if _differs(found.get(key, _MISSING.get(key)), value)}
    fixed = sorted(different - _ADJUSTABLE)
    if fixed:
        stated = ", ".join(f"{key} {found.get(key)!r}, expected {config[key]!r}" for key in fixed)
        raise LogSettingsError(f"stream {name}: is in NATS with other settings: {stated}")
    if "num_replicas" in different and info.cluster is None and config["num_replicas"] != 1:
        # A server of 2.9 without a cluster takes more, and has no stream any more at its next start.
        raise LogSettingsError(f"stream {name}: this NATS server has no cluster, expected [cluster] replicas to be 1")
    if different:
        log.info("stream_limits_change", stream=name, settings={key: config[key] for key in sorted(different)})
        await _change(api, "UPDATE", found | dict(config))


def _keep_limit(info: _Info, config: Mapping[str, object]) -> Mapping[str, object]:
    """Return the settings with the present limit, where the stream is too long for a lower one.

    Servers of 2.9 remove the beginning of a stream that is longer than its new limit, though it discards what is new.
    """
    former, wanted = info.config.get("max_bytes", -1), config["max_bytes"]
    assert isinstance(former, int)
    assert isinstance(wanted, int)
    is_lower = wanted >= 0 and (former < 0 or wanted < former)
    if not is_lower or info.state.bytes <= KEPT_SHARE * wanted:
        return config
    log.warning(
        "stream_limit_kept",
        stream=config["name"],
        max_bytes=former,
        expected=wanted,
        bytes=info.state.bytes,
        reason=f"it is changed at a start at which the stream has {KEPT_SHARE:.0%} of the new limit at most",
    )
    return {**config, "max_bytes": former}


async def _create(api: JetStreamApi, config: Mapping[str, object]) -> _Info | None:
    """Make a stream, or return that which another node has made at the same moment.

    Servers refuse the later one of two requests, with the reason that the subjects of the stream are taken.
    """
    try:
        await _change(api, "CREATE", config)
    except (LogAwayError, LogSettingsError):
        for _ in range(_FIND_TRIES):
            found = await _find(api, str(config["name"]))
            if found is not None:
                return found
            await asyncio.sleep(_FIND_AGAIN_SECONDS)
        raise
    return None


async def _find(api: JetStreamApi, name: str) -> _Info | None:
    return await api.find(f"STREAM.INFO.{name}", b"", _Info, f"stream {name}", STREAM_NOT_FOUND)


async def _change(api: JetStreamApi, verb: str, config: Mapping[str, object]) -> None:
    name = str(config["name"])
    request = json.dumps(config).encode()
    try:
        await api.call(f"STREAM.{verb}.{name}", request, _Info, f"stream {name}", _CREATE_SECONDS)
    except LogFullError as exc:  # what its limit reserves is more than the servers have
        raise LogSettingsError(f"{exc}; expected max_file_store and the disks of NATS to hold all streams") from exc


def _differs(found: object, wanted: object) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return any(found.get(key) != value for key, value in wanted.items())
    return found != wanted
