"""The request by which a node that has prepared a shard asks its holder for it.

The answer says only whether the holder begins: the table of leases shows the outcome, also if the answer is lost.
"""

from collections.abc import Callable

import msgspec
import structlog

from streamd.cluster.log import Log, LogAwayError, NoAnswerError, Unsubscribe
from streamd.core.cluster.shards import ClusterNames

log = structlog.get_logger(__name__)

HANDOVER_VERB = "handover"

HANDOVER_SECONDS = 1.0
"""The time in which the holder must answer; the request is repeated anyway."""


class HandoverRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a node asks for a shard that it has prepared."""

    shard: int
    node: str
    run: int


_decoder = msgspec.msgpack.Decoder(HandoverRequest)


async def request_handover(cluster_log: Log, names: ClusterNames, holder: str, request: HandoverRequest) -> bool:
    """Ask a holder for a shard; returns whether it begins to release it, as far as is known."""
    subject = names.ask(holder, HANDOVER_VERB)
    try:
        answer = await cluster_log.request(subject, msgspec.msgpack.encode(request), timeout_seconds=HANDOVER_SECONDS)
    except LogAwayError as exc:
        log.debug("handover_not_answered", shard=request.shard, holder=holder, error=str(exc))
        return False
    return answer == b"1"


async def serve_handovers(
    cluster_log: Log, names: ClusterNames, node: str, release: Callable[[HandoverRequest], bool]
) -> Unsubscribe:
    """Answer requests for shards; `release` begins to release one, and returns whether it does."""

    async def answer(data: bytes) -> bytes:
        try:
            request = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise NoAnswerError(f"the request is not one of this release: {exc}") from exc
        return b"1" if release(request) else b"0"

    return await cluster_log.serve(names.ask(node, HANDOVER_VERB), answer)
