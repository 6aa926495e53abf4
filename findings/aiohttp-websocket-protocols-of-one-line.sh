#!/usr/bin/env bash
# aiohttp's server reads only the first header Sec-WebSocket-Protocol of a handshake, and misses what the others offer.
#
# RFC 6455 (section 11.3.4): the header "MAY appear multiple times in an HTTP request (which is logically the same as a
# single |Sec-WebSocket-Protocol| header field that contains all values)". WebSocketResponse takes
# headers["Sec-WebSocket-Protocol"], which is the first of them. So a server that knows chat.v2 answers no protocol to a
# client that offers chat.v1 and chat.v2 in two lines, where it answers chat.v2 to the same list in one line, and a
# client that needs its protocol has to leave.
# request.headers.getall(...) has both lines; a server that needs them must refuse or join them before it prepares.
# websockets 15.0.1 joins the lines and answers chat.v2 in both cases.
#
# Seen with aiohttp 3.14.5 and websockets 15.0.1, CPython 3.11. Prints what each of them answers, and fails if that
# changes. Takes a few seconds; only loopback is used.
set -euo pipefail
python=${PYTHON:-python3.11}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/serve.py" <<'PY'
import asyncio
import logging
import sys

from aiohttp import web
from websockets.asyncio.server import serve

HANDSHAKE = """GET / HTTP/1.1\r
Host: 127.0.0.1\r
Connection: Upgrade\r
Upgrade: websocket\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
{lines}\r
"""
OFFERS = {"one line": ["chat.v1, chat.v2"], "two lines": ["chat.v1", "chat.v2"]}


async def open_socket(port, offered):
    """Return the status and the protocol that a server answers to these headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = "".join(f"Sec-WebSocket-Protocol: {each}\r\n" for each in offered)
    writer.write(HANDSHAKE.format(lines=lines).encode())
    status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    writer.close()
    found = [line.split(": ")[1] for line in headers if line.lower().startswith("sec-websocket-protocol:")]
    return status.split()[1], found[0] if found else "none"


async def handle(request):
    socket = web.WebSocketResponse(protocols=["chat.v2"])
    await socket.prepare(request)
    await socket.close()
    return socket


async def ignore(connection):
    await connection.wait_closed()


async def main():
    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with serve(ignore, "127.0.0.1", 0, subprotocols=["chat.v2"]) as other:
        ports = {"aiohttp": runner.addresses[0][1], "websockets": other.sockets[0].getsockname()[1]}
        for name, port in ports.items():
            for kind, offered in OFFERS.items():
                status, protocol = await open_socket(port, offered)
                print(f"{name}, {kind}: {status}, protocol {protocol}", flush=True)
    await runner.cleanup()


logging.basicConfig(level=logging.WARNING, format="logged: %(message)s", stream=sys.stdout)
logging.getLogger("websockets").setLevel(logging.ERROR)
asyncio.run(main())
PY
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check aiohttp==3.14.5 websockets==15.0.1
timeout 60 "$work/venv/bin/python" "$work/serve.py" > "$work/seen"
cat "$work/seen"
diff "$work/seen" - <<'LINES' || { echo "they behave otherwise now" >&2; exit 1; }
aiohttp, one line: 101, protocol chat.v2
logged: 127.0.0.1: Client protocols ['chat.v1'] don’t overlap server-known ones ['chat.v2']
aiohttp, two lines: 101, protocol none
websockets, one line: 101, protocol chat.v2
websockets, two lines: 101, protocol chat.v2
LINES
