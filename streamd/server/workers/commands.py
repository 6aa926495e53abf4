"""The commands of the supervisor to another process of the daemon: lines on its standard input.

The end of the input is the death of the supervisor, after which a process must not stay.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress

DRAIN, STOP, RELOAD, LOST_ENGINE, LOST_WORKER = "drain", "stop", "reload", "lost-engine", "lost-worker"
"""Take nothing more and finish what was taken; end; read the files again; the engine process ended; a worker ended."""

COMMANDS_DESCRIPTOR = 0


class CommandReader:
    """The commands on a descriptor, each passed to its handler with its argument on the running loop."""

    def __init__(
        self,
        handlers: Mapping[str, Callable[[str], None]],
        on_lost: Callable[[], None],
        descriptor: int = COMMANDS_DESCRIPTOR,
    ) -> None:
        self._handlers = handlers
        self._on_lost = on_lost
        self._descriptor = descriptor
        self._rest = b""
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def close(self) -> None:
        """Read no more."""
        asyncio.get_running_loop().remove_reader(self._descriptor)

    def _read(self) -> None:
        data = b""
        with suppress(BlockingIOError):
            data = os.read(self._descriptor, 4_096)
            if not data:
                self.close()
                self._on_lost()
                return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            name, _, argument = line.decode().partition(" ")
            handler = self._handlers.get(name)
            if handler is not None:
                handler(argument)
