"""Which servers a candidate version forecasts: a share of them, always the same ones, or a shadow copy."""

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True)
class CanaryAssignment:
    """What a candidate version is given: a `share` (0 to 1) of the servers.

    As the share grows, servers join and none leaves. Another candidate gets other servers first, so that not the same
    ones are tried on each time. With `shadow` its forecasts are only scored; without, they are the ones delivered.
    """

    candidate: str
    share: float
    shadow: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share of {self.candidate} is {self.share}, expected 0 to 1")

    def includes(self, server: str) -> bool:
        """Whether the candidate forecasts this server. Costs a hash: keep the answer by slot."""
        return self.compute_position(server) < self.share

    def compute_position(self, server: str) -> float:
        """Where a server lies between 0 and 1 (1 not included), evenly spread; the same on every machine, for ever."""
        digest = blake2b(server.encode(), digest_size=8, key=_key(self.candidate)).digest()
        return (int.from_bytes(digest, "little") >> 11) / 2.0**53


def _key(candidate: str) -> bytes:
    return blake2b(candidate.encode(), digest_size=16).digest()
