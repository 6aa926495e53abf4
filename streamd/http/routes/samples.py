"""Samples in: the route `POST /v1/samples` and the WebSocket `GET /v1/ingest`.

`wire/bodies.py` decodes; `runtime/ingest.py` writes the rows.
"""

from aiohttp import WSMsgType, web

from streamd.core.errors import DrainingError, MalformedError, StreamdError
from streamd.http.errors import make_error_message, reply
from streamd.http.requests import BodyReader
from streamd.http.sockets import Sockets
from streamd.http.wire.bodies import decode_body
from streamd.http.wire.codecs import Encoding, encode, parse_content_type
from streamd.runtime.service import Service


class SampleRoutes:
    """Handlers for agents that send samples."""

    def __init__(self, service: Service, bodies: BodyReader, sockets: Sockets) -> None:
        self._ingest = service.ingest
        self._bodies = bodies
        self._sockets = sockets

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/v1/samples", self.post_samples)
        app.router.add_get("/v1/ingest", self.open_socket)

    async def post_samples(self, request: web.Request) -> web.Response:
        """Take one body of samples; the answer counts those accepted and names the errors of the others."""
        if self._ingest.is_draining:
            raise DrainingError("the daemon is stopping")
        encoding = parse_content_type(request.headers.get("Content-Type", ""))
        async with self._bodies.read_body(request) as body:
            try:
                _, samples = decode_body(body, encoding)
            except MalformedError as error:
                self._ingest.count_refused(error)
                raise
            result = await self._ingest.take_samples(samples)
        return reply(request, result.as_dict())

    async def open_socket(self, request: web.Request) -> web.StreamResponse:
        """Take frames of samples, one after the other, until the agent leaves or the daemon stops.

        The next frame is read only when the previous one is taken and its ack is in the socket. So the connection of
        an agent that sends faster than that, or never reads, fills up and blocks the agent (back-pressure).
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
                answer = await self._take_frame(message.data, encoding, acks)
                # An agent that requested no acks may never read: an error is sent only if the send need not wait.
                if answer is not None and (acks or self._sockets.has_read_all(socket)):
                    await self._sockets.send(socket, answer, encoding)
            return socket

    async def _take_frame(self, data: bytes | str, encoding: Encoding, acks: bool) -> bytes | None:
        try:
            identifier, samples = decode_body(data, encoding)
            result = await self._ingest.take_samples(samples)
        except StreamdError as error:
            self._ingest.count_refused(error)
            return encode(make_error_message(error), encoding)
        if not acks:
            return None
        return encode({"type": "ack", "id": identifier, **result.as_dict()}, encoding)
