"""Wakes another process: an eventfd that it has on its loop. Many rings before it wakes are one."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress


class Doorbell:
    """One end of an eventfd; `descriptor` is inherited by the processes of one daemon and closed by none of them."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def ring(self) -> None:
        """Wake the process that listens, now or as soon as it listens."""
        with suppress(BlockingIOError):  # it was rung 2^64 times: the process will wake
            os.eventfd_write(self.descriptor, 1)

    def listen(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the running loop after it was rung, from now on."""
        asyncio.get_running_loop().add_reader(self.descriptor, self._answer, callback)

    def stop(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self.descriptor)

    def _answer(self, callback: Callable[[], None]) -> None:
        with suppress(BlockingIOError):  # another process of this daemon has read it: it is gone by now
            os.eventfd_read(self.descriptor)
        callback()


def make_doorbell() -> int:
    """Return the descriptor of a new doorbell; it does not block."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
