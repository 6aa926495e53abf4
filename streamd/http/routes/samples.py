"""`POST /v1/samples` and the `GET /v1/ingest` WebSocket."""

from aiohttp import WSMsgType, web

from streamd.core.errors import DrainingError, MalformedError, StreamdError
from streamd.http.errors import make_error_message, reply
from streamd.http.requests import BodyReader
from streamd.http.sockets import Sockets
from streamd.http.wire.bodies import decode_body
from streamd.http.wire.codecs import Encoding, encode, parse_content_type
from streamd.runtime.service import Service


class SampleRoutes:
    """Samples in, by request or by frame."""

    def __init__(self, service: Service, bodies: BodyReader, sockets: Sockets) -> None:
        self._ingest = service.ingest
        self._bodies = bodies
        self._sockets = sockets

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/v1/samples", self.post)
        app.router.add_get("/v1/ingest", self.socket)

    async def post(self, request: web.Request) -> web.Response:
        """Take one body of samples."""
        if self._ingest.draining:
            raise DrainingError("the daemon is stopping")
        encoding = parse_content_type(request.headers.get("Content-Type", ""))
        async with self._bodies.read_body(request) as body:
            try:
                _, samples = decode_body(body, encoding)
            except MalformedError as error:
                self._ingest.refuse(error)
                raise
            result = await self._ingest.take(samples)
        return reply(request, result.as_dict())

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """Take frames of samples, one after the other, until the agent leaves or the daemon stops.

        The next frame is read when the one before is taken and its ack is in the socket: an agent that sends
        faster than that, or never reads, is held back by its own connection.
        """
        acks = request.query.get("ack", "all") != "none"
        async with self._sockets.accept_websocket(request) as socket:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    encoding = Encoding.JSON
                elif message.type is WSMsgType.BINARY:
                    encoding = Encoding.MSGPACK
                else:
                    break
                answer = await self._take(message.data, encoding, acks)
                # An agent that asked for no acks may never read: an error must not wait for it.
                if answer is not None and (acks or self._sockets.has_read_all(socket)):
                    await self._sockets.send(socket, answer, encoding)
            return socket

    async def _take(self, data: bytes | str, encoding: Encoding, acks: bool) -> bytes | None:
        try:
            identifier, samples = decode_body(data, encoding)
            result = await self._ingest.take(samples)
        except StreamdError as error:
            self._ingest.refuse(error)
            return encode(make_error_message(error), encoding)
        if not acks:
            return None
        return encode({"type": "ack", "id": identifier, **result.as_dict()}, encoding)
