"""Tests `streamd/runtime/service.py`: one log line when the last lane is lost, and one when there is one again."""

from pathlib import Path

from structlog.testing import capture_logs

from streamd.core.errors import LaneLostError
from tests.support.http_harness import HttpDaemonSettings, run_http_daemon

EVENTS = {"no_lane", "lanes_back"}


async def test_the_last_lane_that_is_lost_is_one_line_and_its_return_another(tmp_path: Path) -> None:
    async with run_http_daemon(tmp_path / "state", HttpDaemonSettings(lanes=0)) as daemon:
        service = daemon.service
        with capture_logs() as logs:
            service.note_readiness()  # at the start there is no lane yet, and the daemon logs when it is ready
            daemon.open_lanes(2)
            first, second = service.pipeline.workers
            service.pipeline.remove_lanes({first: LaneLostError("a test")})
            service.note_readiness()
            assert EVENTS.isdisjoint(each["event"] for each in logs)
            service.pipeline.remove_lanes({second: LaneLostError("another test")})
            service.note_readiness()
            service.note_readiness()
            daemon.open_lanes(1)
            service.note_readiness()
        lines = [each for each in logs if each["event"] in EVENTS]
        assert [each["event"] for each in lines] == ["no_lane", "lanes_back"]
        assert "another test" in str(lines[0]["lost"])
        assert lines[1]["lanes"] == 1
