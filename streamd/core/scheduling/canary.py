"""The servers that a candidate version forecasts: a share of them, always the same. Keeps no state."""

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True)
class CanaryAssignment:
    """The `share` (0 to 1) of the servers that a candidate version forecasts.

    If the share grows, servers join and no server leaves. Another candidate begins with other servers, so that not the
    same servers are used each time. The forecasts of a `shadow` are only scored; otherwise they are delivered.
    """

    candidate: str
    share: float
    shadow: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share of {self.candidate} is {self.share}, expected 0 to 1")

    def includes(self, server: str) -> bool:
        """Whether the candidate forecasts this server. Takes a hash: cache the answer by slot."""
        return self.compute_position(server) < self.share

    def compute_position(self, server: str) -> float:
        """Return a server's position between 0 and 1 (1 excluded): evenly spread, the same on every machine."""
        digest = blake2b(server.encode(), digest_size=8, key=_make_key(self.candidate)).digest()
        return (int.from_bytes(digest, "little") >> 11) / 2.0**53


def _make_key(candidate: str) -> bytes:
    return blake2b(candidate.encode(), digest_size=16).digest()
