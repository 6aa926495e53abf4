"""A proxy of one port that can cut its connections, lose what comes back, and move to another daemon."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Relay:
    """Passes bytes on, in both directions, for any number of connections."""

    def __init__(self, target_port: int, prefix: bytes = b"") -> None:
        self.target_port = target_port
        self.loses_answers = False
        """Whether what the daemon sends is lost from now on."""
        self.accepted = 0
        self.passed_up = 0
        """Pieces that clients sent, heads of requests included."""
        self.is_away = False
        """Whether each new connection is closed at once."""
        self._prefix = prefix
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Abort all connections, as a daemon that is killed does."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.is_away:
            writer.transport.abort()
            return
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back_writer}
        try:
            await asyncio.gather(self._pass_up(reader, back_writer), self._pass_down(back_reader, writer))
        finally:
            self._writers -= {writer, back_writer}

    async def _pass_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                if self._prefix:
                    data = data.replace(b" " + self._prefix + b"/", b" /")
                writer.write(data)
                self.passed_up += 1
                await writer.drain()
        writer.close()

    async def _pass_down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                if not self.loses_answers:
                    writer.write(data)
                    await writer.drain()
        writer.close()

    async def _open(self) -> None:
        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._server = await asyncio.start_server(begin, "127.0.0.1", 0)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def open_relay(target_port: int, prefix: bytes = b"") -> AsyncIterator[Relay]:
    """Open a relay; `prefix` is taken off the paths of requests, as a proxy does that serves a daemon below a path."""
    relay = Relay(target_port, prefix)
    await relay._open()
    try:
        yield relay
    finally:
        await relay._close()
