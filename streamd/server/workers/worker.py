"""A worker: the process of a daemon that takes connections, writes rows, and sends forecasts.

Connects the parts, as `server/daemon.py` does for the engine process; how they work is up to their packages.
"""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import web

from streamd.core.contract import ModelContract
from streamd.core.state.memory_repairs import repair_memory
from streamd.core.state.repairs import repair_windows
from streamd.http.access.origins import OriginPolicy
from streamd.http.app import HttpApp
from streamd.http.forwarding import EngineForwarder
from streamd.http.worker_app import make_worker_app
from streamd.runtime.background import run_in_background
from streamd.runtime.background_tasks import BackgroundTasks
from streamd.runtime.process_links import ProcessLinks
from streamd.runtime.service import Service
from streamd.runtime.service_report import describe_status
from streamd.runtime.state.opening import SharedArrays, open_shared_state
from streamd.runtime.state.state import State
from streamd.runtime.wiring import build_service, make_empty_deployment
from streamd.runtime.workers.block import SharedBlock
from streamd.runtime.workers.followed import FollowedServers
from streamd.runtime.workers.messages import Welcome
from streamd.runtime.workers.taking import WorkerIngest
from streamd.runtime.workers.worker_gate import WorkerGate
from streamd.server.access.control import AccessControl
from streamd.server.access.opening import open_protected_access
from streamd.server.config import Config
from streamd.server.limits import make_service_limits, make_transport_limits, make_window_limits
from streamd.server.listening import HttpListener
from streamd.server.memory import configure_malloc
from streamd.server.page import load_page
from streamd.server.process import watch_signals
from streamd.server.systemd import Notifier, feed_watchdog
from streamd.server.workers.commands import DRAIN, LOST_ENGINE, LOST_WORKER, RELOAD, STOP, CommandReader
from streamd.server.workers.memory import open_memory
from streamd.server.workers.plan import PartPlan
from streamd.server.workers.states import DRAINED
from streamd.web.files import PageFiles

log = structlog.get_logger(__name__)

EXIT_RESTART = 77
"""The exit status of a worker that must be started again, since the state was replaced."""

FLUSH_CHECK_SECONDS = 0.005
"""The interval at which a drain checks whether all is sent."""


class WorkerProcess:
    """One worker, from `run` until the supervisor ends it."""

    def __init__(self, config: Config, plan: PartPlan) -> None:
        self.config = config
        self._plan = plan
        self._notifier = Notifier()
        self._stop = asyncio.Event()
        self._status = 0
        self._tasks = BackgroundTasks()
        self._block, mail = open_memory(plan, config)
        self._gate = WorkerGate(mail, self._block.engine, plan.run)
        self._forwarder = EngineForwarder(plan.engine_socket, lambda: self._gate.is_engine_up)
        self._ingest: WorkerIngest | None = None
        self._access: AccessControl | None = None
        self._listener: HttpListener | None = None
        self._service: Service | None = None
        self._http_app: HttpApp | None = None

    async def run(self) -> int:
        """Start, serve until the supervisor ends it; return the exit status. Raises `StreamdError`."""
        configure_malloc()
        self._watch_commands()
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                runner = starting.result()
                await stopping
                await self._shut_down(runner)
        finally:
            for task in (starting, stopping):
                task.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
        return self._status

    # ------------------------------------------------------------ start
    async def _start(self) -> web.AppRunner:
        """Begin to serve; returns what runs the application."""
        listener = self._listener = await self._open_listener()
        access = self._access = await open_protected_access(self.config, listener.addresses)
        self._gate.on_replaced = self._restart
        service = self._service = await self._make_service(await self._gate.open())
        http_app = self._http_app = self._make_app(service, access, await load_page(self.config.server))
        runner = http_app.make_runner(shutdown_timeout_seconds=1.0)
        await runner.setup()
        await listener.serve(runner, access.tls, self.config.server.head_timeout_seconds)
        self._tasks.start(access.run())
        await self._gate.wait_for_others()
        log.info("worker_ready", port=listener.addresses[0].port, servers=len(service.state.directory))
        self._notifier.notify(READY="1")
        self._tasks.start(feed_watchdog(self._notifier, lambda: ""))
        return runner

    async def _open_listener(self) -> HttpListener:
        plan, backlog = self._plan, self.config.server.backlog
        if plan.sockets:
            sockets = [socket.socket(fileno=descriptor) for descriptor in plan.sockets]
            for each in sockets:
                each.setblocking(False)
            return HttpListener(sockets, backlog=backlog, is_inherited=True)
        return await HttpListener.open_shared(plan.addresses, backlog=backlog)

    async def _make_service(self, welcome: Welcome) -> Service:
        contract = msgspec.convert(welcome.contract, ModelContract)
        state = await run_in_background(lambda: _open_state(self.config, contract, self._block))
        gate, plan = self._gate, self._plan
        followed = FollowedServers(state, plan.number, plan.workers)
        followed.read_all()
        repairs = repair_windows(state.windows, followed.own_slots, time.monotonic(), is_torn=False)
        if state.memory is not None:
            repair_memory(state.memory, followed.own_slots, is_torn=False)
        for slot, reason in repairs.unreadable.items():
            log.error("server_unreadable", server=state.directory.names[slot], slot=slot, reason=reason)
        links = ProcessLinks(
            due_router=gate.due,
            slot_giver=_LateGiver(self),
            rewinder=gate,
            received=self._block.arrays["received"],
        )
        service = build_service(state, welcome.model, {}, make_service_limits(self.config), links=links)
        service.ingest.points = None  # rows that are means are made in the engine process
        gate.on_serving = lambda model: service.pipeline.switch(make_empty_deployment(model))
        gate.serve(service, followed)
        self._ingest = WorkerIngest(gate, service.ingest, plan.workers, contract.features)
        self._ingest.gives_all = self.config.windows.aggregation == "mean"
        gate.take_handed_on = self._ingest.take_handed_on
        gate.count = lambda: _count(service)
        service.watch()
        gate.report_unforecast()
        return service

    def _make_app(self, service: Service, access: AccessControl, page: PageFiles | None) -> HttpApp:
        assert self._ingest is not None, "it is made with the service"
        http_app = make_worker_app(
            service,
            make_transport_limits(self.config),
            self._ingest,
            None if self._ingest.gives_all else self._ingest.singles,
            self._forwarder,
            access=access.access,
            origins=OriginPolicy(self.config.access.allowed_hosts, self.config.access.allowed_origins),
            page=page,
        )
        access.govern(http_app.sockets, http_app.connections.table)
        return http_app

    def give_slot(self, name: str, now_wall: float, silent_since: float) -> tuple[int, str | None]:
        """Raise why a new server got no slot."""
        assert self._ingest is not None, "it is made with the service"
        return self._ingest.admit(name, now_wall, silent_since)

    # ------------------------------------------------------------ commands
    def _watch_commands(self) -> None:
        watch_signals(lambda number: self._stop.set(), self._reload)
        CommandReader(
            {
                DRAIN: lambda argument: self._tasks.start(self._drain()),
                STOP: lambda argument: self._stop.set(),
                RELOAD: lambda argument: self._reload(),
                LOST_ENGINE: lambda argument: self._gate.lose(*map(int, argument.split())),
                LOST_WORKER: lambda argument: self._gate.lose(*map(int, argument.split())),
            },
            on_lost=self._stop.set,
        )

    def _reload(self) -> None:
        if self._access is not None:
            self._tasks.start(self._check_files(self._access))

    async def _check_files(self, access: AccessControl) -> None:
        await access.check_files(is_requested=True)
        self._notifier.notify(READY="1")

    def _restart(self) -> None:
        log.warning("state_replaced", reason="another engine process has a state of another layout")
        self._status = EXIT_RESTART
        self._stop.set()

    async def _drain(self) -> None:
        """Take nothing more from callers, and let the engine process know of all that was taken."""
        if self._listener is not None:
            await self._listener.stop()
        if self._ingest is not None:
            self._ingest.is_draining = True
            while self._ingest.load or not self._gate.due.is_empty:
                await asyncio.sleep(FLUSH_CHECK_SECONDS)
        self._notifier.notify(**{DRAINED: "1"})

    async def _shut_down(self, runner: web.AppRunner) -> None:
        service, http_app, began = self._service, self._http_app, time.monotonic()
        assert service is not None, "it has started"
        assert http_app is not None, "it has started"
        try:
            async with asyncio.timeout(self.config.server.drain_seconds):
                if self._listener is not None:
                    await self._listener.stop()
                self._gate.mail.read()
                await service.hub.finish()
                await http_app.sockets.close_all()
        except TimeoutError:
            log.warning("readers_left", waiting=service.hub.waiting)
        self._tasks.cancel()
        await self._tasks.wait()
        await runner.cleanup()
        await self._forwarder.close()
        self._gate.close()
        service.close()
        log.info("stopped", seconds=round(time.monotonic() - began, 2))


class _LateGiver:
    """Gives slots by a worker's ingest, which is made after the service that needs it."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker

    def admit(self, name: str, now_wall: float, silent_since: float = 0.0) -> tuple[int, str | None]:
        return self._worker.give_slot(name, now_wall, silent_since)


def _count(service: Service) -> tuple[bytes, dict[str, Any]]:
    status = describe_status(service, lambda server: False)
    rows = {name: status["rows"][name] for name in ("closed", "warming")}
    return service.metrics.render(), {
        "rows": rows,
        **{name: status[name] for name in ("samples", "subscribers", "memory")},
    }


def _open_state(config: Config, contract: ModelContract, block: SharedBlock) -> State:
    shared = SharedArrays(block.arrays, in_use=True)
    return open_shared_state(Path(config.state.state_dir), contract, make_window_limits(config), shared)
