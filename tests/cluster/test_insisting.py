"""Tests `streamd/cluster/insisting.py`."""

import pytest
from structlog.testing import capture_logs

from streamd.cluster.insisting import insist
from streamd.cluster.log import LogAwayError


async def test_a_step_is_done_again_until_the_log_is_there_and_each_new_reason_is_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamd.cluster.insisting.INSIST_SECONDS", 0.0)
    reasons = ["no leader", "no leader", "no answer", "no leader"]

    async def step() -> int:
        if reasons:
            raise LogAwayError(reasons.pop(0))
        return 7

    with capture_logs() as logs:
        assert await insist(step, "cluster_awaited", cluster="c") == 7
    assert [(each["event"], each["error"]) for each in logs] == [
        ("cluster_awaited", "no leader"),
        ("cluster_awaited", "no answer"),
        ("cluster_awaited", "no leader"),
    ]
    assert {each["cluster"] for each in logs} == {"c"}


async def test_other_errors_end_it() -> None:
    async def step() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await insist(step, "cluster_awaited")
