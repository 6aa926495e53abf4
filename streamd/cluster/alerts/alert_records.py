"""The record of alerts in the table of a cluster: what is active, was resolved and was delivered, of a part of a shard.

Encodes and decodes; what the records mean for this node is in `owned_record.py` and `record_view.py`.
"""

import zlib
from collections.abc import Sequence

import msgspec

from streamd.core.cluster.formats import check_format
from streamd.core.cluster.shards import find_alert_part
from streamd.core.errors import MalformedError
from streamd.runtime.alerts.alert import Alert
from streamd.runtime.alerts.store import DeliveryMark, StoredAlert

FORMAT = 1
MAX_DECODED_BYTES = 256 * 2**20
RECORD_COMPRESSION = 1

MIN_RECORDS = 32
"""A cluster has so many records at least: 100,000 alerts must fit, and a message of NATS takes a megabyte."""


class AlertRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The alerts of a part of a shard's servers, as the owner with this fence kept them."""

    fence: int = 0
    active: tuple[StoredAlert, ...] = ()
    resolved: tuple[Alert, ...] = ()
    """The newest one first."""
    marks: tuple[DeliveryMark, ...] = ()


class AlertRecordError(ValueError):
    """A record cannot be read: another release wrote it, or it is damaged."""


_decoder = msgspec.msgpack.Decoder(AlertRecord)


def encode_record(record: AlertRecord) -> bytes:
    """Return the bytes of a record."""
    return bytes((FORMAT,)) + zlib.compress(msgspec.msgpack.encode(record), RECORD_COMPRESSION)


def decode_record(data: bytes) -> AlertRecord:
    """Return the record of some bytes; raises `AlertRecordError`, `LaterFormatError`."""
    try:
        check_format(data[0] if data else 0, FORMAT, "the record")
    except MalformedError as exc:
        raise AlertRecordError(str(exc)) from exc
    reader = zlib.decompressobj()
    try:
        plain = reader.decompress(data[1:], MAX_DECODED_BYTES)
        if not reader.eof:
            raise AlertRecordError(f"the record is cut off, or longer than {MAX_DECODED_BYTES} bytes")
        return _decoder.decode(plain)
    except (zlib.error, msgspec.DecodeError, ValueError) as exc:
        raise AlertRecordError(f"the record cannot be read: {exc}") from exc


def count_parts(shards: int) -> int:
    """Return the number of records of each shard."""
    return -(-MIN_RECORDS // shards)


def list_record_keys(shard: int, shards: int) -> Sequence[str]:
    """Return the keys of a shard's records."""
    return [_make_key(shard, part) for part in range(count_parts(shards))]


def find_record_key(server: str, shard: int, shards: int) -> str:
    """Return the key of the record that has the alerts of a server of a shard."""
    return _make_key(shard, find_alert_part(server, count_parts(shards)))


def _make_key(shard: int, part: int) -> str:
    return f"shard.{shard}.{part}"
