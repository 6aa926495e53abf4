"""The entries of the table of leases: a key for each shard, with the run of the node that holds it."""

import msgspec

from streamd.core.cluster.lease_actions import Lease

_KEY = "shard"

_decoder = msgspec.msgpack.Decoder(Lease)


def make_lease_key(shard: int) -> str:
    """Return the key of a shard's lease."""
    return f"{_KEY}.{shard}"


def parse_lease_key(key: str) -> int | None:
    """Return the shard of a lease's key, `None` for another key."""
    name, _, number = key.partition(".")
    return int(number) if name == _KEY and number.isascii() and number.isdigit() else None


def encode_lease(lease: Lease) -> bytes:
    """Return a lease as the table has it."""
    return msgspec.msgpack.encode(lease)


def decode_lease(value: bytes) -> Lease | None:
    """Return a lease, `None` if the bytes are not one."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
