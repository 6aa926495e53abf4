"""The parts that all connections of a server share, for servers that a test builds itself."""

from streamd.http.byte_budget import ByteBudget
from streamd.http.connection_errors import ConnectionCounts
from streamd.http.connection_table import ConnectionTable
from streamd.http.connections import ConnectionParts
from streamd.http.peer_turns import PeerTurns
from streamd.http.requests import TransportLimits
from streamd.runtime.pauses import Pauses


def make_connection_parts(limits: TransportLimits, pauses: Pauses) -> ConnectionParts:
    return ConnectionParts(
        counts=ConnectionCounts(),
        table=ConnectionTable(limits, pauses),
        turns=PeerTurns(),
        budget=ByteBudget(limits.max_pending_body_bytes, lambda: pauses.clock()),
    )
