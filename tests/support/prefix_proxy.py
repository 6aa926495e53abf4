"""A reverse proxy in a thread that serves a daemon below a path, as nginx does with `location /streamd/`."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import web

from streamd.tools.loadtest.child import HOST, find_free_port

PREFIX = "/streamd/"

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "content-encoding"}


class PrefixProxy:
    """Passes requests and WebSockets below `PREFIX` on to the daemon at `target`; `Host` stays that of the caller."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._session: aiohttp.ClientSession | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request as the daemon answers it without the prefix."""
        if not request.path.startswith(PREFIX):
            raise web.HTTPNotFound
        url = f"{self._target}/{request.raw_path.removeprefix(PREFIX)}"
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._pass_socket(request, url, headers)
        async with self.session.request(
            request.method, url, headers=headers, data=await request.read(), allow_redirects=False
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections to the daemon."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return self._session

    async def close(self, _app: web.Application) -> None:
        """Close the connections to the daemon."""
        await self.session.close()

    async def _pass_socket(self, request: web.Request, url: str, headers: dict[str, str]) -> web.StreamResponse:
        offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if name]
        kept = {name: value for name, value in headers.items() if not name.lower().startswith("sec-websocket-")}
        async with self.session.ws_connect(url, headers=kept, protocols=offered) as behind:
            front = web.WebSocketResponse(protocols=[behind.protocol] if behind.protocol else ())
            await front.prepare(request)
            passing = {
                asyncio.create_task(_pass_frames(behind, front)),
                asyncio.create_task(_pass_frames(front, behind)),
            }
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            for task in passing:
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)
            await front.close()
        return front


@contextmanager
def run_prefix_proxy(target: str) -> Iterator[str]:
    """Run a proxy in front of the daemon at `target`; yields its address, with a slash at the end."""
    port = find_free_port()
    loop = asyncio.new_event_loop()
    is_ready, is_over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        app, proxy = web.Application(), PrefixProxy(target)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        app.on_cleanup.append(proxy.close)
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, HOST, port).start()
        is_ready.set()
        await is_over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    is_ready.wait()
    try:
        yield f"http://{HOST}:{port}{PREFIX}"
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join()
        loop.close()


AnySocket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


async def _pass_frames(source: AnySocket, target: AnySocket) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await target.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await target.send_bytes(message.data)
