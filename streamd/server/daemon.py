"""The daemon's life in three sentences: start-up, main loop, drain with a deadline."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from streamd.core.costs import CostTable
from streamd.core.errors import StateError
from streamd.core.lanes import LaneLimits
from streamd.repository.versions import EngineRepository, EngineVersion
from streamd.runtime.keeper import LaneKeeper, Opened
from streamd.runtime.service import Service, ServiceLimits
from streamd.runtime.state import State, WindowLimits, open_state
from streamd.server.backends import open_backend
from streamd.server.config import Config
from streamd.server.systemd import Notifier
from streamd.transport.app import Doors, make_doors
from streamd.transport.requests import TransportLimits

log = structlog.get_logger(__name__)


class Daemon:
    """One daemon: `run` returns its exit status when a signal has ended it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.notifier = Notifier()
        self._keeper: LaneKeeper | None = None
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Begin to drain."""
        self._stop.set()

    async def run(self) -> int:
        """Start, serve until told to stop, drain. Raises `StreamdError` where start-up fails."""
        self._watch_signals()  # first: whoever hears of it may stop it
        version = EngineRepository(Path(self.config.engine.engines)).choose(self.config.engine.engine or None)
        service = self._make_service(version)
        doors = make_doors(service, _transport_limits(self.config))
        runner = await self._listen(doors)
        starting = asyncio.create_task(self._open_lanes(service, version))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                self._keep(self._flush_regularly(service.state))
                self._keep(self._feed_watchdog())
                await stopping
        finally:
            await self._shut_down(service, doors, runner, [starting, stopping])
        return 0

    # ------------------------------------------------------------ start-up
    def _make_service(self, version: EngineVersion) -> Service:
        state = open_state(
            Path(self.config.state.state_dir), version.contract, _window_limits(self.config), time.monotonic()
        )
        service = Service(state, version.name, version.server_ids, _service_limits(self.config))
        service.begin()  # before the first sample: what comes from now on is due by itself
        return service

    async def _listen(self, doors: Doors) -> web.AppRunner:
        settings = self.config.server
        runner = web.AppRunner(doors.app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as exc:
            await runner.cleanup()
            raise StateError(f"cannot listen on {settings.host}:{settings.port}: {exc.strerror or exc}") from exc
        log.info("listening", host=settings.host, port=runner.addresses[0][1])
        return runner

    async def _open_lanes(self, service: Service, version: EngineVersion) -> None:
        """Load and warm in threads: samples are taken meanwhile, `/readyz` says no until a lane is warm."""
        began = time.monotonic()
        service.engine = {"backend": None, "precision": None, "fallbacks": []}

        def changed(opened: Opened, costs: CostTable) -> None:
            service.engine = _engine_status(version, opened, costs, keeper)

        keeper = self._keeper = LaneKeeper(
            service.pipeline,
            partial(open_backend, version, self.config),
            max_batch=self.config.batching.max_batch_size,
            warmup_seconds=self.config.engine.warmup_seconds,
            limits=LaneLimits(hang_seconds=self.config.engine.lane_hang_seconds),
            changed=changed,
        )
        await keeper.open()
        keeper.watch()
        # What stands now stays: the collector need not look at it again, which took hundreds of milliseconds.
        gc.collect()
        gc.freeze()
        backend = service.engine["backend"]
        log.info(
            "ready",
            engine=version.name,
            backend=backend,
            lanes=len(service.pipeline.workers),
            bucket_ms=service.engine["bucket_ms"],
            seconds=round(time.monotonic() - began, 2),
        )
        self.notifier.tell(READY="1", STATUS=f"serving {version.name} on {backend}")

    # ------------------------------------------------------------ main loop
    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("stopped_at_once", signal=signal.Signals(number).name)
            os._exit(128 + number)
        log.info("draining", signal=signal.Signals(number).name, within_seconds=self.config.server.drain_seconds)
        self.stop()

    async def _flush_regularly(self, state: State) -> None:
        while True:
            await asyncio.sleep(self.config.state.flush_interval_seconds)
            try:
                await asyncio.to_thread(state.flush)
            except OSError as exc:
                log.error("flush_failed", error=str(exc))

    async def _feed_watchdog(self) -> None:
        interval = self.notifier.watchdog_seconds
        while interval is not None:
            self.notifier.tell(WATCHDOG="1")
            await asyncio.sleep(interval / 2)

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(coroutine))

    # ------------------------------------------------------------ drain
    async def _shut_down(
        self, service: Service, doors: Doors, runner: web.AppRunner, tasks: "list[asyncio.Task[object]]"
    ) -> None:
        self.notifier.tell(STOPPING="1")
        began = time.monotonic()
        complete = True
        try:
            async with asyncio.timeout(self.config.server.drain_seconds):
                for site in list(runner.sites):
                    await site.stop()  # no new connections; those that are open go on
                await service.drain()
                await service.hub.finish()
                await doors.sockets.close_all()
        except TimeoutError:
            complete = False
        if self._keeper is not None:
            self._keeper.close()
        for task in (*tasks, *self._tasks):
            task.cancel()
        await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
        await runner.cleanup()
        service.close()
        log.info("stopped", complete=complete, seconds=round(time.monotonic() - began, 2), rows=service.row_counts())


def _engine_status(version: EngineVersion, opened: Opened, costs: CostTable, keeper: LaneKeeper) -> dict[str, Any]:
    return {
        "backend": opened.backend.name,
        "precision": opened.backend.precision,
        "fallbacks": keeper.fallbacks,
        "backend_details": opened.backend.describe(),
        "architecture": version.contract.architecture,
        "bucket_ms": {str(bucket): round(seconds * 1e3, 3) for bucket, seconds in costs.seconds.items()},
    }


def _transport_limits(config: Config) -> TransportLimits:
    server = config.server
    return TransportLimits(
        max_body_bytes=server.max_body_bytes,
        max_frame_bytes=server.max_frame_bytes,
        max_pending_body_bytes=server.max_pending_body_bytes,
        max_sockets=server.max_sockets,
        body_timeout_seconds=server.body_timeout_seconds,
        send_timeout_seconds=server.send_timeout_seconds,
        heartbeat_seconds=server.heartbeat_seconds,
    )


def _window_limits(config: Config) -> WindowLimits:
    return WindowLimits(
        capacity=config.state.max_servers,
        need=config.windows.min_context_rows,
        late_steps=config.windows.late_tolerance_steps,
        grace_seconds=config.windows.row_grace_seconds,
    )


def _service_limits(config: Config) -> ServiceLimits:
    return ServiceLimits(
        max_queue_delay_seconds=config.batching.max_queue_delay_ms / 1e3,
        max_ahead_seconds=config.windows.max_ahead_seconds,
        max_waiting_requests=config.batching.max_waiting_requests,
        predict_timeout_seconds=config.batching.predict_timeout_seconds,
    )
