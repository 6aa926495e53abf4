#!/usr/bin/env bash
# Since 0.18.0, uvloop accepts one connection of a listening socket in each turn of its loop; asyncio accepts many.
#
# 50 connections that wait on a socket are accepted by asyncio's own loop in one turn, or in as many as it takes if the
# `backlog` of create_server is smaller, which is the most that it accepts in one. uvloop 0.17.0, with libuv 1.43, takes
# one turn too. With uvloop 0.18.0, 0.22.1 and 0.23.0 it is 50 turns, whatever the `backlog`: their libuv, 1.46 and
# later, no longer accepts in a loop (libuv's pull request 3696). An idle loop turns again at once, so that nothing is
# seen. With 20 ms of other work in a turn, the last of the 50 was accepted after 1.04 s under uvloop 0.23.0 and after
# 0.06 s under asyncio: a health check that opens a connection waits a turn for each connection that came before it. A
# program that accepts the rest from the same socket itself, once the loop has accepted the first, needs 3 turns.
#
# Seen with uvloop 0.17.0, 0.18.0, 0.22.1 and 0.23.0, CPython 3.11, x86-64 Linux. Prints what each loop does, and fails
# if that changes. Takes half a minute; only loopback is used.
set -euo pipefail
python=${PYTHON:-python3.11}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/accept.py" <<'PY'
import asyncio
import contextlib
import socket
import sys
from asyncio import AbstractEventLoop, BaseTransport, Protocol

CLIENTS = 50


class Listener:
    """A listening socket on which clients wait before the loop has its first look at it."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.turn = 0
        self.accepted: list[int] = []  # the turn of each connection
        self.complete = asyncio.Event()
        self.tasks: list[asyncio.Task] = []
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.clients = [socket.create_connection(self.socket.getsockname()) for _ in range(CLIENTS)]

    def count_turn(self) -> None:
        """Run once in each turn of the loop."""
        self.turn += 1
        if not self.complete.is_set():
            self.loop.call_soon(self.count_turn)

    def accept_rest(self) -> Protocol:
        self.loop.call_soon(self._accept_rest)
        return Connection(self)

    def _accept_rest(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted, _ = self.socket.accept()
                accepted.setblocking(False)
                opening = self.loop.connect_accepted_socket(lambda: Connection(self), accepted)
                self.tasks.append(self.loop.create_task(opening))


class Connection(Protocol):
    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def connection_made(self, transport: BaseTransport) -> None:
        self.listener.accepted.append(self.listener.turn)
        if len(self.listener.accepted) == CLIENTS:
            self.listener.complete.set()


async def report(kind: str, *, rest: bool = False, backlog: int = 128) -> None:
    loop = asyncio.get_running_loop()
    listener = Listener(loop)
    make = listener.accept_rest if rest else lambda: Connection(listener)
    server = await loop.create_server(make, sock=listener.socket, backlog=backlog)
    loop.call_soon(listener.count_turn)
    await asyncio.wait_for(listener.complete.wait(), 30)
    turns = listener.accepted[-1] - listener.accepted[0] + 1
    most = max(map(listener.accepted.count, listener.accepted))
    print(f"{kind}: {CLIENTS} connections in {turns} turn{'s' * (turns > 1)}, at most {most} in one")
    await asyncio.gather(*listener.tasks)
    server.close()
    for client in listener.clients:
        client.close()


async def main(name: str) -> None:
    await report(name)
    await report(f"{name}, backlog=10", backlog=10)
    if name == "uvloop":
        await report("uvloop, the rest accepted by hand", rest=True)


if sys.argv[1] == "uvloop":
    import uvloop
    from uvloop.loop import libuv_get_version

    number = libuv_get_version()
    print(f"libuv {number >> 16}.{number >> 8 & 255}.{number & 255}")
    uvloop.install()
asyncio.run(main(sys.argv[1]))
PY

check() { # check NAME, LOOP, the lines on standard input
  timeout 60 "$work/$1/bin/python" "$work/accept.py" "$2" > "$work/$1/seen"
  echo "$2 of $1:" && sed 's/^/  /' "$work/$1/seen"
  diff "$work/$1/seen" - || { echo "$2 of $1 behaves otherwise now" >&2; exit 1; }
}

expect() { # expect VERSION of uvloop, the lines on standard input
  "$python" -m venv "$work/$1"
  "$work/$1/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "uvloop==$1"
  check "$1" uvloop
}

"$python" -m venv "$work/python"
check python asyncio <<'LINES'
asyncio: 50 connections in 1 turn, at most 50 in one
asyncio, backlog=10: 50 connections in 5 turns, at most 10 in one
LINES
expect 0.17.0 <<'LINES'
libuv 1.43.0
uvloop: 50 connections in 1 turn, at most 50 in one
uvloop, backlog=10: 50 connections in 1 turn, at most 50 in one
uvloop, the rest accepted by hand: 50 connections in 1 turn, at most 50 in one
LINES
expect 0.18.0 <<'LINES'
libuv 1.46.0
uvloop: 50 connections in 50 turns, at most 1 in one
uvloop, backlog=10: 50 connections in 50 turns, at most 1 in one
uvloop, the rest accepted by hand: 50 connections in 3 turns, at most 49 in one
LINES
expect 0.22.1 <<'LINES'
libuv 1.48.0
uvloop: 50 connections in 50 turns, at most 1 in one
uvloop, backlog=10: 50 connections in 50 turns, at most 1 in one
uvloop, the rest accepted by hand: 50 connections in 3 turns, at most 49 in one
LINES
expect 0.23.0 <<'LINES'
libuv 1.52.1
uvloop: 50 connections in 50 turns, at most 1 in one
uvloop, backlog=10: 50 connections in 50 turns, at most 1 in one
uvloop, the rest accepted by hand: 50 connections in 3 turns, at most 49 in one
LINES
