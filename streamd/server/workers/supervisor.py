"""Runs a daemon of several processes: starts the engine process and the workers, and starts each again that ends.

Does no work of its own, so that nothing but a mistake in here can end it. The order of a stop: the workers take nothing
more, the engine process finishes, the workers deliver and end, the engine process ends.
"""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import msgspec
import structlog

from streamd.core.errors import ConfigError
from streamd.runtime.background_tasks import BackgroundTasks
from streamd.runtime.workers.doorbell import make_doorbell
from streamd.server.config import Config
from streamd.server.listening import HttpListener, take_inherited_sockets
from streamd.server.process import watch_signals
from streamd.server.systemd import Notifier, feed_watchdog
from streamd.server.workers.commands import DRAIN, LOST_ENGINE, LOST_WORKER, RELOAD, STOP
from streamd.server.workers.part import Part, RestartDelays
from streamd.server.workers.plan import ENGINE_SOCKET_NAME, EXIT_STATE_REPLACED, PartPlan, share_settings

log = structlog.get_logger(__name__)

END_SECONDS = 60.0
"""The time in which the processes end after a drain: the engine process writes the state to the disk."""

WORKER_WATCHDOG_SECONDS = 60.0
"""A worker that has not turned its loop for so long is ended, if systemd sets no other time."""

MakeBlock = Callable[[Config], int]
"""Makes the shared memory of a daemon with these settings; returns its descriptor."""


class ProcessSupervisor:
    """The supervisor of one daemon, from `run` until a signal ends it.

    `reread` reads the settings again on SIGHUP; without it the settings stay as they are.
    """

    def __init__(self, config: Config, make_block: MakeBlock, reread: Callable[[], Config] | None = None) -> None:
        self.config = config
        self.notifier = Notifier()
        self.parts: list[Part] = []
        """The workers by their number, then the engine process."""
        self._make_block = make_block
        self._reread = reread
        self._stop = asyncio.Event()
        self._status = 0
        self._was_reported_ready = False
        self._keepers: list[asyncio.Task[None]] = []
        self._tasks = BackgroundTasks()

    @property
    def engine(self) -> Part:
        """The engine process."""
        return self.parts[-1]

    @property
    def workers(self) -> Sequence[Part]:
        """The workers."""
        return self.parts[:-1]

    def stop(self) -> None:
        """Request the drain; `run` then returns."""
        self._stop.set()

    async def run(self) -> int:
        """Start all processes, watch them until a signal comes, drain; return the exit status.

        A process that ends before it was ever ready ends all, with its exit status, if no signal ended it. Raises
        `StreamdError`.
        """
        watch_signals(self._on_signal, self._on_hangup)
        with ExitStack() as opened:
            inherited = take_inherited_sockets()
            reserved = None if inherited else await self._reserve_addresses(opened)
            self._make_parts(opened, inherited, reserved)
            address = (reserved or HttpListener(inherited, backlog=0)).addresses[0]
            log.info("listening", host=address.host, port=address.port, workers=len(self.workers))
            began = time.monotonic()
            self._keepers = [asyncio.create_task(self._keep(part)) for part in self.parts]
            if self.notifier.watchdog_seconds is not None:
                self._tasks.start(feed_watchdog(self.notifier, lambda: ""))
            for part in self.parts:
                if part.watchdog_seconds is not None:
                    self._tasks.start(_watch_part(part, part.watchdog_seconds))
            try:
                await self._watch_keepers()
            finally:
                await self._shut_down(began)
        return self._status

    # ------------------------------------------------------------ start-up
    async def _reserve_addresses(self, opened: ExitStack) -> HttpListener:
        """Bind the addresses without listening, so that no other program gets the port while workers start."""
        server = self.config.server
        # Alone first: among sockets that share a port, a second daemon of this user would go unnoticed.
        alone = await HttpListener.open(server.host, server.port, backlog=server.backlog)
        addresses = [(address.host, address.port) for address in alone.addresses]
        alone.close()
        reserved = await HttpListener.open_shared(addresses, backlog=server.backlog)
        opened.callback(reserved.close)
        return reserved

    def _make_parts(self, opened: ExitStack, inherited: Sequence[socket.socket], reserved: HttpListener | None) -> None:
        workers = self.config.server.workers
        folder = tempfile.mkdtemp(prefix="streamd-")
        opened.callback(shutil.rmtree, folder, ignore_errors=True)
        settings, block = share_settings(self.config), self._make_block(self.config)
        bells = tuple(make_doorbell() for _ in range(workers + 1))
        for descriptor in (settings, block, *bells):
            opened.callback(os.close, descriptor)
        self._settings = settings
        engine_socket = _bind_engine_socket(folder)
        opened.callback(engine_socket.close)
        addresses = () if reserved is None else tuple((each.host, each.port) for each in reserved.addresses)
        common = PartPlan(
            role="worker", number=0, workers=workers, settings=settings, block=block, bells=bells, folder=folder
        )

        def make_worker_plan(number: int) -> PartPlan:
            return msgspec.structs.replace(
                common, number=number, addresses=addresses, sockets=tuple(each.fileno() for each in inherited)
            )

        def make_engine_plan() -> PartPlan:
            return msgspec.structs.replace(
                common,
                role="engine",
                number=workers,
                sockets=(engine_socket.fileno(),),
                worker_runs=self._list_worker_runs(),
            )

        plans: list[Callable[[], PartPlan]] = [
            *((lambda number=number: make_worker_plan(number)) for number in range(workers)),
            make_engine_plan,
        ]
        watchdog = self.notifier.watchdog_seconds
        # A worker that hangs holds back new servers; one that works turns its loop. An engine process may rightly wait.
        seconds = [*([watchdog or WORKER_WATCHDOG_SECONDS] * workers), watchdog]
        self.parts = [Part(plan, self._handle_state, each) for plan, each in zip(plans, seconds, strict=True)]
        for part in self.parts:
            opened.callback(part.close)

    # ------------------------------------------------------------ main loop
    async def _watch_keepers(self) -> None:
        """Wait for the stop; raises the error if one that keeps a process has failed."""
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            done, _ = await asyncio.wait([stopping, *self._keepers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        for keeper in done & set(self._keepers):
            keeper.result()

    async def _keep(self, part: Part) -> None:
        """Run a process again whenever it ends, until the stop."""
        delays = RestartDelays()
        while True:
            status = await part.run()
            if self._stop.is_set():
                return
            if not part.was_ready and status > 0:
                log.error("part_failed", part=part.name, status=status)
                self._status = status
                self.stop()
                return
            self._tell_lost(part)
            if status == EXIT_STATE_REPLACED:
                self._start_anew(part)
            delay = delays.choose_delay(was_ready=part.has_served)
            log.error("part_ended", part=part.name, status=status, again_in_seconds=delay)
            await asyncio.sleep(delay)

    def _tell_lost(self, lost: Part) -> None:
        """Tell the others that a process has ended, so that what they wait for from it fails at once."""
        for part in self.parts:
            if part is not lost:
                command = LOST_ENGINE if lost is self.engine else LOST_WORKER
                part.command(command, f"{lost.number} {lost.run_number}")

    def _list_worker_runs(self) -> tuple[int, ...] | None:
        """Return the run of each worker, -1 if none runs; `None` while no state is open."""
        if not self.parts or not self.engine.has_opened:
            return None
        return tuple(-1 if worker.ended.is_set() else worker.run_number for worker in self.workers)

    def _start_anew(self, engine: Part) -> None:
        """Let the next engine process replace the state, which the workers must not have open any more."""
        engine.has_opened = False
        for worker in self.workers:
            worker.kill()

    def _handle_state(self, part: Part, state: Mapping[str, str]) -> None:
        if part is self.engine and (text := state.get("STATUS")):
            self.notifier.notify(STATUS=f"{text}, {len(self.workers)} workers")
        if extension := state.get("EXTEND_TIMEOUT_USEC"):
            self.notifier.notify(EXTEND_TIMEOUT_USEC=extension)
        if "RELOADING" in state and self._was_reported_ready:
            self._was_reported_ready = False
            self.notifier.notify_reloading()
        if not self._was_reported_ready and all(each.is_ready for each in self.parts):
            self._was_reported_ready = True
            self.notifier.notify(READY="1")
            log.info("all_ready", workers=len(self.workers))

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("stopped_at_once", signal=signal.Signals(number).name)
            for part in self.parts:
                part.kill()
            os._exit(128 + number)
        self.stop()  # first: the log may be a pipe that nobody reads any more
        log.info("draining", signal=signal.Signals(number).name, within_seconds=self.config.server.drain_seconds)

    def _on_hangup(self) -> None:
        if self._stop.is_set():
            return
        self._share_versions()
        for part in self.parts:
            part.command(RELOAD)

    def _share_versions(self) -> None:
        """Let an engine process that is started again have the settings that this reload gives the present one."""
        if self._reread is None:
            return
        try:
            reread = self._reread()
        except ConfigError:
            return  # the engine process logs it
        self.config = msgspec.structs.replace(self.config, engine=reread.engine, candidate=reread.candidate)
        share_settings(self.config, self._settings)

    # ------------------------------------------------------------ drain
    async def _shut_down(self, began: float) -> None:
        drain_seconds = self.config.server.drain_seconds
        self.notifier.notify_stopping(drain_seconds + END_SECONDS)
        in_time = True
        try:
            async with asyncio.timeout(drain_seconds):
                await self._finish(self.workers, DRAIN)
                await self._finish([self.engine], DRAIN)
                await self._end(self.workers)
        except TimeoutError:
            in_time = False
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._end(self.parts)
        except TimeoutError:
            in_time = False
        self._tasks.cancel()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, self._tasks.wait(), return_exceptions=True)
        log.info("all_stopped", complete=in_time, seconds=round(time.monotonic() - began, 2))

    async def _finish(self, parts: Sequence[Part], command: str) -> None:
        """Send a command to processes and wait until each has finished what it took, or has ended."""
        for part in parts:
            part.command(command)
        for part in parts:
            await part.drained.wait()

    async def _end(self, parts: Sequence[Part]) -> None:
        for part in parts:
            part.command(STOP)
        for part in parts:
            await part.ended.wait()


async def _watch_part(part: Part, seconds: float) -> None:
    """End a process whenever it has not reported for so long that it is alive; it is then started again."""
    while True:
        await asyncio.sleep(seconds / 2)
        if part.is_ready and time.monotonic() - part.fed > seconds:
            log.error("part_hangs", part=part.name, seconds=seconds)
            part.kill()


def _bind_engine_socket(folder: str) -> socket.socket:
    """Return the listening socket of the engine process; it stays while that process is started again."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    bound.bind(os.path.join(folder, ENGINE_SOCKET_NAME))
    bound.listen(1_024)
    bound.setblocking(False)
    return bound
