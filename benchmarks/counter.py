"""The floors of HTTP: an aiohttp WebSocket handler on uvloop that counts frames, and a POST handler that reads bodies.

Run as a program by `ingest.py` and `agents.py`.
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


async def take(request: web.Request) -> web.Response:
    """Read a body and answer with nothing."""
    await request.read()
    return web.Response(status=204)


async def serve(port: int) -> None:
    """Serve until the process is terminated."""
    import asyncio

    app = web.Application(client_max_size=2**26)
    app.router.add_get("/", count)
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
