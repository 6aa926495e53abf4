"""Tests `streamd/cluster/revisions.py`: revisions rise also in a table that was made anew."""

import pytest

from streamd.cluster.revisions import put_above
from tests.support.made_log import MemoryLog


@pytest.mark.parametrize(("above", "revision"), [(0, 2), (1, 2), (2, 3), (1_000, 1_001)])
async def test_a_key_is_put_until_its_revision_is_high_enough(above: int, revision: int) -> None:
    log = MemoryLog()
    log.broker.make_bucket("b")
    table = log.table("b")
    await table.put("other", b"")
    assert await put_above(table, "key", b"value", above) == revision
    assert (await table.read_all())["key"].value == b"value"
