"""The floor for ingest: an aiohttp WebSocket handler on uvloop that counts frames and does nothing else.

Run as a program by `ingest.py`.
"""

import sys

import uvloop
from aiohttp import WSMsgType, web


async def count(request: web.Request) -> web.WebSocketResponse:
    """Count frames until the peer closes the connection."""
    socket = web.WebSocketResponse(compress=False, max_msg_size=2**22)
    await socket.prepare(request)
    frames = 0
    async for message in socket:
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            frames += 1
    return socket


async def serve(port: int) -> None:
    """Serve until the process is terminated."""
    import asyncio

    app = web.Application()
    app.router.add_get("/", count)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
