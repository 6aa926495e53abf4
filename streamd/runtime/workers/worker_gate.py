"""A worker towards the other processes: says that it is there, asks them, and passes on what they send.

Runs on the event loop. `taking.py` takes samples, and `engine_news.py` knows what the engine process tells.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from streamd.core.errors import StreamdError, UnavailableError
from streamd.runtime.background_tasks import BackgroundTasks
from streamd.runtime.service import Service
from streamd.runtime.workers.due_sender import DueSender
from streamd.runtime.workers.engine_news import EngineNews
from streamd.runtime.workers.errors import restore_error
from streamd.runtime.workers.followed import FollowedServers
from streamd.runtime.workers.mail import Mail
from streamd.runtime.workers.messages import (
    Admit,
    Admitted,
    AskCounts,
    Counts,
    Failed,
    HandOn,
    HandOnFrame,
    HandOnRows,
    HandOnSingles,
    Hello,
    Here,
    Message,
    Taken,
    TakenRows,
    TakenSingles,
    Welcome,
    decode_message,
)
from streamd.runtime.workers.peers import Peers

HELLO_SECONDS = 0.2
"""The interval at which a worker asks for a welcome until it gets one."""

LOOK_SECONDS = 0.5
"""The interval at which a worker asks those that are away whether they are back."""

OTHERS_SECONDS = 5.0
"""A worker begins to serve without the others after so long."""

HandedOn = HandOn | HandOnFrame | HandOnSingles | HandOnRows
"""Messages of another worker with rows that this one owns."""

TakeHandedOn = Callable[[int, HandedOn], None]
"""Takes what another worker handed on, and answers it."""


class WorkerGate:
    """The other processes, as one worker sees them; `run` counts its starts.

    `open` asks for a welcome; `serve` gives it the service.
    """

    def __init__(self, mail: Mail, engine: int, run: int = 0) -> None:
        self.engine = engine
        self.mail = mail
        self.on_replaced: Callable[[], None] = lambda: None
        """Called when the state was replaced by another one, so that this process cannot go on."""
        self.on_serving: Callable[[str], object] = lambda model: None
        """Called with the name of the version that serves, when it is another one."""
        self.take_handed_on: TakeHandedOn = lambda source, message: None
        self.count: Callable[[], tuple[bytes, dict[str, Any]]] = lambda: (b"", {})
        """Returns the metrics of this process as text, and the entries of its status."""
        self.due = DueSender(mail, engine)
        self._peers = Peers(mail, run)
        self._welcome: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        self._early: list[Message] = []  # what the engine process told between the welcome and `serve`
        self._all_here = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._running = BackgroundTasks()
        self._news: EngineNews | None = None
        self._handlers: dict[type, Callable[[int, Any], None]] = {
            **dict.fromkeys((Admitted, Taken, TakenSingles, TakenRows), self._handle_answer),
            **dict.fromkeys((HandOn, HandOnFrame, HandOnSingles, HandOnRows), self._handle_handed_on),
            Failed: lambda source, message: self._peers.fail(message.number, restore_error(message.code, message.text)),
            Here: self._handle_here,
            AskCounts: self._handle_ask,
        }

    # ------------------------------------------------------------ start
    async def open(self) -> Welcome:
        """Begin to read, and wait until the engine process has the state open; returns its welcome."""
        self.mail.open(self._handle)
        while not self._welcome.done():
            self.send(self.engine, Hello(self._peers.run))
            await asyncio.wait([self._welcome], timeout=HELLO_SECONDS)
        return self._welcome.result()

    def serve(self, service: Service, followed: FollowedServers) -> None:
        """Follow the engine process from now on, beginning with what it has told since its welcome."""
        service.state.board.last_serial = self._welcome.result().last_serial
        if service.state.memory is not None:
            self.due.before_send = service.state.memory.settle
        self._news = EngineNews(service, followed, lambda message: self.send(self.engine, message), self.on_serving)
        early, self._early = self._early, []
        for message in early:
            self._dispatch(self.engine, message)
        self._look_for_others()

    async def wait_for_others(self) -> None:
        """Wait until every other worker takes what is handed on, or for `OTHERS_SECONDS`."""
        until = asyncio.get_running_loop().time() + OTHERS_SECONDS
        while self.away and asyncio.get_running_loop().time() < until:
            self._all_here.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_here.wait(), OTHERS_SECONDS)

    def _look_for_others(self) -> None:
        for worker in self.away:
            self.send(worker, Here(self._peers.run, asks=True))
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_for_others)

    def close(self) -> None:
        """Read nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        self.mail.close()

    # ------------------------------------------------------------ the other processes
    @property
    def is_engine_up(self) -> bool:
        """Whether the engine process answers."""
        return self._peers.presence.is_here(self.engine)

    @property
    def away(self) -> list[int]:
        """The other workers that take nothing at present: they are starting."""
        return [number for number in self._peers.presence.away if number != self.engine]

    def lose(self, process: int, run: int) -> None:
        """Note that a run of a process has ended: what was asked of it fails, and can be asked again."""
        self._peers.lose(process, run)

    def ask(self, target: int, make: Callable[[int], Message]) -> "asyncio.Future[Any]":
        """Send the request that `make` makes of its number; the answer fails with `UnavailableError` if it is lost.

        A process that is away gets no request: what it finds when it starts was for the former one.
        """
        return self._peers.ask(target, make)

    def send(self, target: int, message: Message) -> None:
        """Send a message."""
        self._peers.send(target, message)

    @property
    def news(self) -> EngineNews:
        """The news of the engine process, from `serve` on."""
        assert self._news is not None, "the gate serves"
        return self._news

    @property
    def service(self) -> Service:
        """The service, from `serve` on."""
        return self.news.service

    @property
    def followed(self) -> FollowedServers:
        """The servers that are known here, from `serve` on."""
        return self.news.followed

    # ------------------------------------------------------------ in
    def _handle(self, source: int, data: bytes) -> None:
        message = decode_message(data)
        if isinstance(message, Welcome) and not self._take_welcome(message):
            return
        if self._news is None and source == self.engine:
            self._early.append(message)
        else:
            self._dispatch(source, message)

    def _take_welcome(self, message: Welcome) -> bool:
        """Note that the engine process is there; returns whether it is another one than before."""
        self._peers.meet(self.engine, message.run)
        if not self._welcome.done():
            self._early.clear()  # told before the welcome: to the former process here
            self._welcome.set_result(message)
            return False
        first = self._welcome.result()
        if (message.windows_file, message.board_file) != (first.windows_file, first.board_file):
            self.on_replaced()
            return False
        return True

    def _dispatch(self, source: int, message: Message) -> None:
        if isinstance(message, Welcome):
            self.news.follow_again(message)
        elif (handler := self._handlers.get(type(message))) is not None:
            handler(source, message)
        elif source == self.engine:
            self.news.handle(message)

    def _handle_answer(self, _source: int, message: Admitted | Taken | TakenSingles | TakenRows) -> None:
        self._peers.resolve(message.number, message)

    def _handle_handed_on(self, source: int, message: HandedOn) -> None:
        if self._news is None:
            starting = Failed(message.number, UnavailableError.code, "a process of the daemon is starting")
            self.send(source, starting)
        else:
            self.take_handed_on(source, message)

    def _handle_here(self, source: int, message: Here) -> None:
        if not self._peers.meet(source, message.run):
            return
        if message.asks:
            self.send(source, Here(self._peers.run, asks=False))
        if not self.away:
            self._all_here.set()

    def _handle_ask(self, source: int, message: AskCounts) -> None:
        metrics, status = self.count()
        self.send(source, Counts(message.number, metrics, status))

    # ------------------------------------------------------------ servers
    async def admit(self, servers: list[str], wall: float, *, may_evict: bool) -> dict[str, StreamdError | None]:
        """Ask for slots for servers that this worker owns; returns the error of each, `None` if it has a slot now.

        Raises `UnavailableError` if the engine process is away.
        """
        admitted: Admitted = await self.ask(self.engine, lambda number: Admit(number, servers, wall, may_evict))
        return {
            server: None if error is None else restore_error(*error)
            for server, error in zip(servers, admitted.errors, strict=True)
        }

    def rewind(self, slot: int, last_step: int) -> int:
        """Drop the rows of an own server after a step (`SlotRewinder`)."""
        return self.news.rewind(slot, last_step)

    def report_unforecast(self) -> None:
        """Report the own servers whose newest row has no forecast: a former process here may not have reported them."""
        self.due.route_due_many(self.news.find_unforecast())

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the others."""
        self._running.start(coroutine)
