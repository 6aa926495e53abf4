"""Runs one daemon: start-up, main loop, and a drain with a deadline.

Connects the parts and owns the signals; how the parts work is up to their packages.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from aiohttp import web

from streamd.http.access.origins import OriginPolicy
from streamd.http.app import HttpApp, make_http_app
from streamd.rule_sets import load_rule_sets
from streamd.runtime.background import run_in_background
from streamd.runtime.background_tasks import BackgroundTasks
from streamd.runtime.process_links import ALONE, ProcessLinks
from streamd.runtime.service import Service
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import State
from streamd.runtime.traces import NO_TRACES, Traces
from streamd.runtime.wiring import build_service
from streamd.server.access.control import AccessControl
from streamd.server.access.opening import open_protected_access
from streamd.server.cluster.cache import empty_cache
from streamd.server.config import Config
from streamd.server.device_restarts import EXIT_DEVICE_LOST, DeviceRestarts
from streamd.server.disk import run_disk_work
from streamd.server.limits import make_service_limits, make_transport_limits, make_window_limits
from streamd.server.listening import HttpListener, take_inherited_sockets
from streamd.server.memory import configure_malloc
from streamd.server.outputs import OutputTasks, check_outputs
from streamd.server.page import load_page
from streamd.server.process import watch_signals
from streamd.server.systemd import Notifier, extending_start, feed_watchdog
from streamd.server.tracing import open_traces
from streamd.server.version_control.control import VersionControl
from streamd.server.version_control.specs import Selection, open_version, select_versions
from streamd.server.workers.engine import EnginePart

if TYPE_CHECKING:
    from streamd.server.cluster.part import ClusterPart, ClusterSeams

log = structlog.get_logger(__name__)

T = TypeVar("T")

LOAD_SECONDS = 120.0
"""The time that systemd gives the loading of the first version, however long opening the state took."""

LEAVE_SHARE = 0.75
"""The part of the drain in which a node of a cluster hands over its shards."""

STATE_CLOSE_SECONDS = 60.0
"""The time that systemd gives the writing of the state after the drain."""


class Daemon:
    """One daemon, from `run` until a signal ends it.

    `reread` reads the settings again on SIGHUP; without it the settings stay as they are. With `part`, it is the engine
    process of a daemon of several processes.
    """

    def __init__(
        self, config: Config, reread: Callable[[], Config] | None = None, part: EnginePart | None = None
    ) -> None:
        self.config = config
        self._part = part
        self._cluster: ClusterPart | None = None
        self.notifier = Notifier()
        self._reread = reread
        self._version_control: VersionControl | None = None
        self._service: Service | None = None
        self._access: AccessControl | None = None
        self._traces: Traces = NO_TRACES
        self._stop = asyncio.Event()
        self._tasks = BackgroundTasks()
        self._status = 0
        self._is_started = False
        self._is_reload_due = False  # a SIGHUP came before there was a version that could change
        self._restarts = DeviceRestarts(Path(config.state.state_dir), config.engine.max_device_restarts)
        self._is_restart_requested = False

    def stop(self) -> None:
        """Request the drain; `run` then delivers what is in progress and returns."""
        self._stop.set()

    async def run(self) -> int:
        """Start, serve until a signal comes, drain; return the exit status. Raises `StreamdError` if it cannot start.

        The status is 0, or `EXIT_DEVICE_LOST` if the daemon ended itself to be restarted.
        """
        configure_malloc()
        watch_signals(
            self._on_signal, self._on_hangup
        )  # first: from here on a signal stops the daemon in an orderly way
        inherited = take_inherited_sockets()
        if self.config.cluster.urls:
            self._cluster = self._make_cluster_part()
        if self._part is not None:
            self._part.watch_commands(stop=self.stop, reload=self._on_hangup)
        opened = await self._await_unless_stopped(self._open_files(inherited))
        if opened is None:
            log.info("stopped_while_starting")
            return 0
        listener, access, selection, state = opened
        self._access = access
        service = self._service = self._make_service(selection, state)
        control = self._version_control = VersionControl(service, self.config, open_version, self._reread)
        outputs = OutputTasks(service, self.config, self._tasks)
        http_app = make_http_app(
            service,
            make_transport_limits(self.config),
            control if self._cluster is None else self._cluster.make_rollout(control),
            access=access.access,
            origins=OriginPolicy(self.config.access.allowed_hosts, self.config.access.allowed_origins),
            page=await load_page(self.config.server) if self._part is None else None,  # the workers have it
            is_behind_workers=self._part is not None,
            **self._list_cluster_seams(),
        )
        if self._cluster is not None:
            self._cluster.serve(http_app)
        access.govern(http_app.sockets, http_app.connections.table)
        runner = await self._listen(http_app, listener, access)
        self._tasks.start(access.run())
        outputs.start_exports()
        service.device_restarts = await run_in_background(partial(self._restarts.count_recent, time.time()))
        control.on_device_lost = self._on_device_lost
        self._start_storage_tasks(service)
        starting = asyncio.create_task(self._start_work(control, selection, outputs))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopping
        finally:
            await self._shut_down(service, http_app, listener, runner, [starting, stopping])
        return self._status

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

    async def _open_files(
        self, inherited: Sequence[socket.socket]
    ) -> tuple[HttpListener, AccessControl, Selection, State]:
        """Bind, and read in threads what start-up needs from the disk, so that signals work while a file system hangs.

        First of all it is decided whether the daemon may listen there: a refused start leaves nothing behind.
        """
        settings = self.config.server
        inherited = inherited if self._part is None else self._part.sockets
        listener = await HttpListener.open(settings.host, settings.port, backlog=settings.backlog, inherited=inherited)
        try:
            access = await open_protected_access(self.config, listener.addresses)
            return listener, access, *await self._open_state()
        except BaseException:
            listener.close()
            raise

    async def _open_state(self) -> tuple[Selection, State]:
        config, seconds = self.config, self.config.engine.read_timeout_seconds
        selection = await run_disk_work(
            config.engine.engines, seconds, partial(select_versions, config.engine, starting=True), Selection.release
        )
        check_outputs(config, selection.contract)  # a refused start leaves nothing behind
        folder, limits = Path(config.state.state_dir), make_window_limits(config)
        if self._cluster is not None:
            folder = await run_in_background(partial(empty_cache, folder))
        # Without a time limit: migrating a large state may take long.
        async with extending_start(self.notifier):
            state = await run_in_background(
                partial(
                    open_state,
                    folder,
                    selection.contract.with_daemon_memory(),
                    limits,
                    time.monotonic(),
                    None if self._part is None else self._part.shared,
                ),
                State.close,
            )
        return selection, state

    def _make_service(self, selection: Selection, state: State) -> Service:
        self._traces = open_traces(self.config.tracing)
        limits, rule_sets = make_service_limits(self.config), load_rule_sets(self.config.mapping)
        service = build_service(
            state,
            selection.name,
            selection.server_ids,
            limits,
            rule_sets=rule_sets,
            wall=time.time if self._cluster is None else self._cluster.read_time,
            traces=self._traces,
            links=self._choose_links(state),
            alerts=self.config.alerts,
        )
        if self._cluster is not None:
            self._cluster.open(service)
        # Before the first sample: later rows mark their servers due themselves.
        if self._part is None:
            service.begin()
        else:
            self._part.begin(service)
        return service

    def _make_cluster_part(self) -> "ClusterPart":
        from streamd.server.cluster.part import ClusterPart  # here: a daemon that is alone needs none of it

        part = ClusterPart(self.config)
        part.on_replaced = self._on_replaced
        return part

    def _choose_links(self, state: State) -> ProcessLinks:
        if self._cluster is not None:
            return self._cluster.make_links(state)
        return ALONE if self._part is None else self._part.gate.links

    def _list_cluster_seams(self) -> "ClusterSeams":
        """Return what the routes take from a cluster; nothing in a daemon that is alone."""
        return {} if self._cluster is None else self._cluster.list_seams()

    async def _start_work(self, control: VersionControl, selection: Selection, outputs: OutputTasks) -> None:
        """Load the first version, and join the cluster meanwhile if there is one."""
        if self._cluster is None:
            await self._load_first_version(control, selection, outputs)
            return
        load = self._load_first_version(control, selection, outputs)
        tasks = [asyncio.create_task(self._cluster.join()), asyncio.create_task(load)]
        try:
            await asyncio.gather(*tasks)
            await self._cluster.follow_versions()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _listen(self, http_app: HttpApp, listener: HttpListener, access: AccessControl) -> web.AppRunner:
        runner = http_app.make_runner(shutdown_timeout_seconds=1.0)
        await runner.setup()
        try:
            tls = access.tls if self._part is None else None  # the workers have it
            await listener.serve(runner, tls, self.config.server.head_timeout_seconds)
        except BaseException:
            await runner.cleanup()
            listener.close()
            raise
        address = listener.addresses[0]
        log.info(
            "listening" if self._part is None else "workers_awaited",
            host=address.host,
            port=address.port,
            inherited=listener.is_inherited,
            tls=access.tls is not None,
        )
        return runner

    def _start_storage_tasks(self, service: Service) -> None:
        storage = service.storage
        self._tasks.start(storage.flush_regularly(self.config.state.flush_seconds, service.state.reserve_whole_pieces))
        if self.config.state.fsync_interval_ms:
            # No ack for rows that would not survive a power loss.
            refuser = service.state if self._part is None else self._part.gate
            storage.on_flush = refuser.refuse_writes
        self._tasks.start(storage.check_regularly())

    async def _load_first_version(self, control: VersionControl, selection: Selection, outputs: OutputTasks) -> None:
        """Load and warm the first version in threads; samples are accepted meanwhile, and `/readyz` answers 503."""
        began = time.monotonic()
        self.notifier.extend_timeout(LOAD_SECONDS)
        await outputs.start_alerts()
        loaded = await control.start(selection)
        assert self._service is not None, "it is made before its version is loaded"
        self._service.garbage.freeze_loaded()
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
        assert self._service is not None
        progress = self._service.progress
        self._tasks.start(feed_watchdog(self.notifier, lambda: progress.stall))
        self._is_started = True
        if self._is_reload_due:
            self._tasks.start(self._reload(control))
        await control.start_configured_candidate()

    def _notify_ready(self) -> None:
        assert self._service is not None
        backend = self._service.engine.shown["backend"]
        self.notifier.notify(READY="1", STATUS=f"serving {self._service.model} on {backend}")

    # ------------------------------------------------------------ main loop
    def _on_hangup(self) -> None:
        if self._stop.is_set():
            return  # no version changes now
        if self._version_control is None or not self._is_started:
            self._is_reload_due = True
            return
        self._tasks.start(self._reload(self._version_control))

    async def _reload(self, control: VersionControl) -> None:
        self.notifier.notify_reloading()
        assert self._access is not None, "it is there before the versions"
        await self._access.check_files(is_requested=True)
        await control.reload()
        self._notify_ready()  # also after a failed reload: the daemon serves as before

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("stopped_at_once", signal=signal.Signals(number).name)
            os._exit(128 + number)
        self.stop()  # first: the log may be a pipe that nobody reads any more
        log.info("draining", signal=signal.Signals(number).name, within_seconds=self.config.server.drain_seconds)

    def _on_replaced(self) -> None:
        log.error("node_replaced_by_namesake", within_seconds=self.config.server.drain_seconds)
        self._status = 1
        self.stop()

    def _on_device_lost(self, reason: str) -> None:
        """End the daemon so that it is started anew, if the settings and the limit permit it."""
        restarts = self._version_control is not None and (
            self._version_control.config.engine.on_device_loss == "restart"
        )
        if not restarts or self._is_restart_requested or self._stop.is_set():
            return
        self._is_restart_requested = True  # each lane of the device reports its loss
        self._tasks.start(self._restart(reason))

    async def _restart(self, reason: str) -> None:
        refusal = await run_in_background(partial(self._restarts.take, time.time()))
        self._is_restart_requested = False
        if refusal is not None:
            log.error("device_restart_refused", reason=refusal, lost=reason)
            return
        log.error(
            "restarting", reason=reason, exit_status=EXIT_DEVICE_LOST, within_seconds=self.config.server.drain_seconds
        )
        self._status = EXIT_DEVICE_LOST
        self.stop()

    # ------------------------------------------------------------ drain
    async def _shut_down(
        self,
        service: Service,
        http_app: HttpApp,
        listener: HttpListener,
        runner: web.AppRunner,
        tasks: "list[asyncio.Task[object]]",
    ) -> None:
        self.notifier.notify_stopping(self.config.server.drain_seconds + STATE_CLOSE_SECONDS)
        began = time.monotonic()
        in_time = True
        try:
            async with service.pauses.timeout(self.config.server.drain_seconds):
                await listener.stop()
                if self._cluster is not None:
                    await self._cluster.leave(self.config.server.drain_seconds * LEAVE_SHARE)
                await service.drain()
                service.alert_subscriptions.close()
                await service.hub.finish()
                await http_app.sockets.close_all()
        except TimeoutError:
            in_time = False
        left = service.undelivered
        if self._version_control is not None:
            self._version_control.close()
        self._tasks.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._tasks.wait(), return_exceptions=True)
        await runner.cleanup()
        if self._part is not None:
            self._part.close()
        if self._cluster is not None:
            await self._cluster.close()
        service.close()
        await run_in_background(self._traces.close)
        log.info(
            "stopped",
            complete=in_time and not left,
            left=left,
            seconds=round(time.monotonic() - began, 2),
            rows=service.row_counts(),
        )
