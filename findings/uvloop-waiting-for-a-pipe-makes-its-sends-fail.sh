#!/usr/bin/env bash
# To wait for a multiprocessing pipe with uvloop's `add_reader` leaves it non-blocking, and large sends fail half-way.
#
# `loop.add_reader(connection.fileno(), ...)` is how a coroutine waits for the other process. asyncio's own loop leaves the
# descriptor as it is. uvloop gives it to libuv, which makes it non-blocking (uv_poll_init) and leaves it so after
# `remove_reader`. multiprocessing's Connection knows blocking descriptors only: a message that is larger than the socket's
# buffer then raises BlockingIOError in the middle, after a part of it was sent, so that the stream is broken too; a
# receive raises it while the rest of a message is on its way. Small messages never show it. What looks like a process
# that has ended (an OSError on its pipe) is a process with a large answer. `os.set_blocking(fd, True)` before each send
# and receive is enough; both loops wait for blocking descriptors as well.
#
# Seen with uvloop 0.17.0 and 0.23.0, CPython 3.11, x86-64 Linux. Prints what each loop does, and fails if that changes.
set -euo pipefail
python=${PYTHON:-python3.11}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/pipe.py" <<'PY'
import asyncio
import multiprocessing
import os
import sys
import threading

SIZE = 4 * 2**20


async def wait_once(fd: int) -> None:
    """Wait for a descriptor for one turn of the loop, as for a call that does not come."""
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, lambda: None)
    await asyncio.sleep(0)
    loop.remove_reader(fd)


def try_pipe(new_loop, *, repair: bool) -> str:
    ours, theirs = multiprocessing.Pipe()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(wait_once(ours.fileno()))
    blocking = os.get_blocking(ours.fileno())
    if repair:
        os.set_blocking(ours.fileno(), True)
    received = []
    # Whoever reads begins only once the buffer is full, or the send has failed.
    failed = threading.Event()
    reader = threading.Thread(target=lambda: received.append(len(theirs.recv_bytes())))
    if blocking or repair:
        reader.start()
    try:
        ours.send_bytes(b"x" * SIZE)
        outcome = "all sent"
    except BlockingIOError:
        outcome = "BlockingIOError after a part"
        failed.set()
    if not failed.is_set():
        reader.join()
        outcome += f", {received[0]} bytes received"
    return f"blocking after remove_reader: {blocking}; a message of 4 MiB: {outcome}"


if sys.argv[1] == "asyncio":
    loop = asyncio.SelectorEventLoop
else:
    import uvloop

    loop = uvloop.new_event_loop
print(f"{sys.argv[1]}: {try_pipe(loop, repair=False)}")
if sys.argv[1] != "asyncio":
    print(f"{sys.argv[1]}, made blocking again: {try_pipe(loop, repair=True)}")
PY
expected="asyncio: blocking after remove_reader: True; a message of 4 MiB: all sent, 4194304 bytes received
uvloop: blocking after remove_reader: False; a message of 4 MiB: BlockingIOError after a part
uvloop, made blocking again: blocking after remove_reader: False; a message of 4 MiB: all sent, 4194304 bytes received"
for version in 0.17.0 0.23.0; do
  "$python" -m venv "$work/$version"
  "$work/$version/bin/pip" install -q --disable-pip-version-check "uvloop==$version"
  found=$(for loop in asyncio uvloop; do "$work/$version/bin/python" "$work/pipe.py" $loop; done)
  echo "uvloop $version:"
  echo "$found"
  [ "$found" = "$expected" ] || { echo "expected:"; echo "$expected"; exit 1; }
done
