"""Tests `streamd/cluster/alerts/alert_records.py`: the records of alerts as bytes, and their keys."""

import zlib

import msgspec
import pytest

from streamd.cluster.alerts.alert_records import (
    MIN_RECORDS,
    AlertRecord,
    AlertRecordError,
    decode_record,
    encode_record,
    find_record_key,
    list_record_keys,
)
from streamd.core.cluster.formats import LaterFormatError
from streamd.core.cluster.shards import find_shard
from streamd.runtime.alerts.alert import AlertState
from streamd.runtime.alerts.store import DeliveryMark, StoredAlert
from tests.support.made_alerts import NOW, make_alert, make_pending_alert, make_resolved_alert

MAX_MESSAGE_BYTES = 2**20
RECORD = AlertRecord(
    fence=7,
    active=(StoredAlert(make_alert(), "print", 1), StoredAlert(make_pending_alert(server="db-ü"), "print", 0)),
    resolved=(make_resolved_alert(server="db-08"),),
    marks=(DeliveryMark("webhook", ("disk_fills", "db-07"), NOW, AlertState.FIRING),),
)


def test_a_record_is_the_same_after_its_way_through_the_table() -> None:
    assert decode_record(encode_record(RECORD)) == RECORD


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "format 0"),
        (b"\x00abc", "format 0"),
        (b"\x01abc", "cannot be read"),
        (encode_record(AlertRecord())[:-4], "cut off"),
        (b"\x01" + zlib.compress(b"\xc1"), "cannot be read"),
        (b"\x01" + zlib.compress(msgspec.msgpack.encode({"fence": "x"})), "fence"),
    ],
)
def test_bytes_that_are_no_record_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(AlertRecordError, match=reason):
        decode_record(data)


def test_a_record_of_a_later_release_is_told_apart_from_a_damaged_one() -> None:
    with pytest.raises(LaterFormatError, match="format 2, which a later release writes"):
        decode_record(b"\x02abc")


def test_a_hundred_thousand_alerts_fit_into_the_messages_of_nats() -> None:
    labels, annotations = {"team": "x" * 500}, {"summary": "y" * 2_000}
    some = [
        make_alert(server=f"rack-{number:06}.example.net", labels=labels, annotations=annotations)
        for number in range(100_000 // MIN_RECORDS)
    ]
    record = AlertRecord(fence=1, active=tuple(StoredAlert(alert, "print" * 8, 1) for alert in some))
    assert len(encode_record(record)) < MAX_MESSAGE_BYTES / 4


@pytest.mark.parametrize("shards", [1, 3, 32, 100])
def test_each_server_has_one_of_the_records_of_its_shard(shards: int) -> None:
    servers = [f"db-{number}" for number in range(500)]
    keys = {find_record_key(server, shard := find_shard(server, shards), shards): shard for server in servers}
    assert all(key in list_record_keys(shard, shards) for key, shard in keys.items())
    every = {key for shard in range(shards) for key in list_record_keys(shard, shards)}
    assert len(every) >= MIN_RECORDS
    assert len(keys) > 0.9 * min(len(every), MIN_RECORDS)
