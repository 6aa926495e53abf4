"""Switches the version of a served fake backend while a call is being answered."""

import asyncio

from streamd.core.scheduling.costs import CostTable
from streamd.runtime.lanes.deployment import Deployment
from streamd.runtime.lanes.worker import LaneWorker
from tests.support.fake_versions import VERSION_NAMES, VersionBackend
from tests.support.http_harness import CONTRACT, HttpDaemon
from tests.support.pipeline_rig import make_fake_spec


async def switch_while_a_batch_runs(daemon: HttpDaemon) -> None:
    """Wait until the daemon's lane holds a batch, and switch to `VERSION_NAMES[1]`; returns when that runs one too."""
    pipeline, backend = daemon.service.pipeline, daemon.backend
    while not backend.script.runs:
        await asyncio.sleep(0)
    second = VersionBackend(CONTRACT, VERSION_NAMES[1], (1, 8, 32))
    deployment = Deployment(make_fake_spec(VERSION_NAMES[1]))
    worker = LaneWorker(second.make_lane(0), asyncio.get_running_loop(), pipeline.handle_result)
    pipeline.open_lanes([worker], CostTable({1: 0.001, 8: 0.008, 32: 0.032}, pads=False), deployment)
    pipeline.switch(deployment)
    while not second.script.runs:
        await asyncio.sleep(0)
