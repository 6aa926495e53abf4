"""Runs one daemon: start-up, main loop, and a drain with a deadline.

Connects the parts and owns the signals; how the parts work is up to their packages.
"""

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from aiohttp import web

from streamd.core.accuracy.pending import AccuracyLimits
from streamd.core.errors import StateError
from streamd.http.app import HttpApp, make_http_app
from streamd.http.requests import TransportLimits
from streamd.rule_sets import load_rule_sets
from streamd.runtime.background import run_in_background
from streamd.runtime.service import Service, ServiceLimits
from streamd.runtime.state.state import State, WindowLimits, open_state
from streamd.runtime.wiring import build_service
from streamd.server.config import Config, read_admin_token
from streamd.server.disk import run_disk_work
from streamd.server.memory import configure_malloc
from streamd.server.systemd import Notifier
from streamd.server.version_control.control import VersionControl
from streamd.server.version_control.specs import Selection, open_version, select_versions

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Daemon:
    """One daemon, from `run` until a signal ends it.

    `reread` reads the settings again on SIGHUP; without it the settings stay as they are.
    """

    def __init__(self, config: Config, reread: Callable[[], Config] | None = None) -> None:
        self.config = config
        self.notifier = Notifier()
        self._reread = reread
        self._version_control: VersionControl | None = None
        self._service: Service | None = None
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Request the drain; `run` then delivers what is in progress and returns."""
        self._stop.set()

    async def run(self) -> int:
        """Start, serve until a signal comes, drain; return 0. Raises `StreamdError` if it cannot start."""
        configure_malloc()
        self._watch_signals()  # first: from here on a signal stops the daemon in an orderly way
        opened = await self._await_unless_stopped(self._open_files())
        if opened is None:
            log.info("stopped_while_starting")
            return 0
        token, selection, state = opened
        service = self._service = self._make_service(selection, state)
        control = self._version_control = VersionControl(service, self.config, open_version, self._reread)
        http_app = make_http_app(service, _make_transport_limits(self.config), control, token)
        runner = await self._listen(http_app)
        self._run_in_background(self._flush_regularly(service))  # samples are accepted from now on
        starting = asyncio.create_task(self._load_first_version(control, selection))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopping
        finally:
            await self._shut_down(service, http_app, runner, [starting, stopping])
        return 0

    # ------------------------------------------------------------ start-up
    async def _await_unless_stopped(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of a coroutine, or `None` if a signal comes first; the coroutine is cancelled then."""
        working, stopping = asyncio.create_task(coroutine), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def _open_files(self) -> tuple[str, Selection, State]:
        """Read in threads what start-up needs from the disk, so that signals work while a file system hangs."""
        config, seconds = self.config, self.config.engine.read_timeout_seconds
        token = await run_disk_work("the admin token", seconds, partial(read_admin_token, config))
        selection = await run_disk_work(
            config.engine.engines, seconds, partial(select_versions, config.engine, starting=True), Selection.release
        )
        folder, limits = Path(config.state.state_dir), _make_window_limits(config)
        # Without a time limit: migrating a large state may take long.
        state = await run_in_background(
            partial(open_state, folder, selection.contract, limits, time.monotonic()), State.close
        )
        return token, selection, state

    def _make_service(self, selection: Selection, state: State) -> Service:
        limits, rule_sets = _make_service_limits(self.config), load_rule_sets(self.config.mapping)
        service = build_service(state, selection.name, selection.server_ids, limits, rule_sets=rule_sets)
        service.begin()  # before the first sample: later rows mark their servers due themselves
        return service

    async def _listen(self, http_app: HttpApp) -> web.AppRunner:
        settings = self.config.server
        runner = http_app.make_runner(shutdown_timeout_seconds=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as exc:
            await runner.cleanup()
            raise StateError(f"cannot listen on {settings.host}:{settings.port}: {exc.strerror or exc}") from exc
        log.info("listening", host=settings.host, port=runner.addresses[0][1])
        return runner

    async def _load_first_version(self, control: VersionControl, selection: Selection) -> None:
        """Load and warm the first version in threads; samples are accepted meanwhile, and `/readyz` answers 503."""
        began = time.monotonic()
        loaded = await control.start(selection)
        # Most objects that exist now live as long as the process. Frozen, they are not scanned by later collections,
        # each of which took hundreds of milliseconds.
        gc.collect()
        gc.freeze()
        assert loaded.backend is not None, "it is loaded"
        assert loaded.costs is not None, "it is loaded"
        log.info(
            "ready",
            engine=loaded.name,
            backend=loaded.backend.name,
            lanes=len(loaded.workers),
            bucket_ms={str(bucket): round(seconds * 1e3, 3) for bucket, seconds in loaded.costs.seconds.items()},
            seconds=round(time.monotonic() - began, 2),
        )
        self._notify_ready()
        # Before the candidate: systemd counts the watchdog's time from READY on, and a candidate may load slowly.
        self._run_in_background(self._feed_watchdog())
        await control.start_configured_candidate()

    def _notify_ready(self) -> None:
        assert self._service is not None
        backend = self._service.engine.shown["backend"]
        self.notifier.notify(READY="1", STATUS=f"serving {self._service.model} on {backend}")

    # ------------------------------------------------------------ main loop
    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_hangup(self) -> None:
        if self._version_control is None or self._stop.is_set():
            # 1. Still opening files: there is no version yet that could change. 2. Stopping: no version changes now.
            return
        self._run_in_background(self._reload(self._version_control))

    async def _reload(self, control: VersionControl) -> None:
        self.notifier.notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1_000))
        await control.reload()
        self._notify_ready()  # also after a failed reload: the daemon serves as before

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("stopped_at_once", signal=signal.Signals(number).name)
            os._exit(128 + number)
        log.info("draining", signal=signal.Signals(number).name, within_seconds=self.config.server.drain_seconds)
        self.stop()

    async def _flush_regularly(self, service: Service) -> None:
        while True:
            await asyncio.sleep(self.config.state.flush_interval_seconds)
            service.state.reserve_whole_pieces()
            try:
                await run_in_background(service.flush)
            except OSError as exc:
                log.error("flush_failed", error=str(exc))

    async def _feed_watchdog(self) -> None:
        interval = self.notifier.watchdog_seconds
        while interval is not None:
            self.notifier.notify(WATCHDOG="1")
            await asyncio.sleep(interval / 2)

    def _run_in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------ drain
    async def _shut_down(
        self, service: Service, http_app: HttpApp, runner: web.AppRunner, tasks: "list[asyncio.Task[object]]"
    ) -> None:
        self.notifier.notify(STOPPING="1")
        began = time.monotonic()
        in_time = True
        try:
            async with service.pauses.timeout(self.config.server.drain_seconds):
                for site in list(runner.sites):
                    await site.stop()  # no new connections; the open ones stay
                await service.drain()
                await service.hub.finish()
                await http_app.sockets.close_all()
        except TimeoutError:
            in_time = False
        left = service.undelivered
        if self._version_control is not None:
            self._version_control.close()
        for task in (*tasks, *self._tasks):
            task.cancel()
        await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
        await runner.cleanup()
        service.close()
        log.info(
            "stopped",
            complete=in_time and not left,
            left=left,
            seconds=round(time.monotonic() - began, 2),
            rows=service.row_counts(),
        )


def _make_transport_limits(config: Config) -> TransportLimits:
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


def _make_window_limits(config: Config) -> WindowLimits:
    return WindowLimits(
        capacity=config.state.max_servers,
        need=config.windows.min_context_rows,
        late_steps=config.windows.late_tolerance_steps,
        grace_seconds=config.windows.row_grace_seconds,
    )


def _make_service_limits(config: Config) -> ServiceLimits:
    return ServiceLimits(
        max_queue_delay_seconds=config.batching.max_queue_delay_ms / 1e3,
        max_ahead_seconds=config.windows.max_ahead_seconds,
        ahead_recovery_seconds=config.windows.ahead_recovery_seconds,
        max_waiting_requests=config.batching.max_waiting_requests,
        predict_timeout_seconds=config.batching.predict_timeout_seconds,
        rows_are_means=config.windows.aggregation == "mean",
        max_series=config.mapping.max_series,
        max_points=config.mapping.max_points,
        accuracy=_make_accuracy_limits(config),
    )


def _make_accuracy_limits(config: Config) -> AccuracyLimits:
    accuracy, periods = config.accuracy, AccuracyLimits().periods
    return AccuracyLimits(
        scored_servers=accuracy.scored_servers,
        settle_steps=accuracy.score_after_steps,
        period_steps=-(-accuracy.accuracy_window_steps // periods),  # rounded up
    )
