"""The engine process of a daemon of several processes: what its `Daemon` does otherwise than one that is alone."""

import asyncio
import os
import shutil
import socket
from collections.abc import Callable, Sequence

from streamd.runtime.service import Service
from streamd.runtime.state.opening import SharedArrays
from streamd.runtime.workers.engine_gate import EngineGate
from streamd.server.config import Config
from streamd.server.systemd import Notifier
from streamd.server.workers.commands import DRAIN, LOST_WORKER, RELOAD, STOP, CommandReader
from streamd.server.workers.memory import open_memory
from streamd.server.workers.plan import PartPlan
from streamd.server.workers.states import DRAINED, OPENED


class EnginePart:
    """The plan of an engine process, carried out; make it on the running loop."""

    def __init__(self, plan: PartPlan, config: Config) -> None:
        block, mail = open_memory(plan, config)
        runs = None if plan.worker_runs is None else dict(enumerate(plan.worker_runs))
        self.gate = EngineGate(block, mail, plan.run, runs)
        self.shared = SharedArrays(block.arrays, in_use=runs is not None)
        self.sockets: Sequence[socket.socket] = [socket.socket(fileno=os.dup(each)) for each in plan.sockets]
        """The listening socket for the workers."""
        self._notifier = Notifier()
        self._folder = plan.folder
        self._is_orphan = False
        self._service: Service | None = None
        self._commands: CommandReader | None = None
        self._draining: asyncio.Task[None] | None = None

    def watch_commands(self, *, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        """Obey the supervisor from now on; if it dies, stop."""
        self._commands = CommandReader(
            {
                DRAIN: lambda argument: self._drain(),
                STOP: lambda argument: stop(),
                RELOAD: lambda argument: reload(),
                LOST_WORKER: lambda argument: self.gate.lose(*map(int, argument.split())),
            },
            on_lost=lambda: self._lose_supervisor(stop),
        )

    def _lose_supervisor(self, stop: Callable[[], None]) -> None:
        self._is_orphan = True
        stop()

    def begin(self, service: Service) -> None:
        """Begin the work of a service, and tell the supervisor and the workers that the state is open."""
        self._notifier.notify(**{OPENED: "1"})  # first: no worker may use the state before the supervisor knows
        self._service = service
        self.gate.open(service)
        service.restore()
        service.watch(closes_rows=False)

    def _drain(self) -> None:
        self._draining = asyncio.create_task(self._finish())

    async def _finish(self) -> None:
        """Finish what the workers have taken; they have taken their last row."""
        if self._service is not None:
            self.gate.read()
            await self._service.drain()
        self._notifier.notify(**{DRAINED: "1"})

    def close(self) -> None:
        """Obey and answer no more."""
        if self._commands is not None:
            self._commands.close()
        if self._draining is not None:
            self._draining.cancel()
        self.gate.close()
        if self._is_orphan:  # the supervisor, which made the folder, can't remove it any more
            shutil.rmtree(self._folder, ignore_errors=True)
