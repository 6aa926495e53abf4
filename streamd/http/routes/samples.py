"""Samples in: the route `POST /v1/samples` and the WebSocket `GET /v1/ingest`.

`wire/bodies.py` decodes; `runtime/ingest.py` writes the rows.
"""

from functools import partial
from typing import Any

from aiohttp import WSMsgType, web

from streamd.core.access.caller import Caller
from streamd.core.errors import DrainingError, InvalidInputError, StreamdError
from streamd.core.state.samples import IndexedSamples, IngestResult
from streamd.http.access.allowance import wait_for_allowance
from streamd.http.access.context import get_caller
from streamd.http.body_turns import LARGE_BODY_BYTES, finish_steps
from streamd.http.errors import make_error_message, reply
from streamd.http.requests import BodyReader, find_owner
from streamd.http.sockets import Sockets
from streamd.http.wire.bodies import decode_body_in_steps
from streamd.http.wire.codecs import Encoding, encode, parse_content_type
from streamd.runtime.service import Service
from streamd.runtime.traces import NO_TRACES, BodyTrace, TraceParent


class SampleRoutes:
    """Handlers for agents that send samples."""

    def __init__(self, service: Service, bodies: BodyReader, sockets: Sockets) -> None:
        self._ingest = service.ingest
        self._traces = service.traces
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
        parent = self._traces.read_parent(request.headers)
        with self._traces.begin_body("POST /v1/samples", parent) as trace:
            async with self._bodies.read_body(request) as body:
                try:
                    with trace.run_step("decode"):
                        _, samples = await finish_steps(decode_body_in_steps(body, encoding))
                except InvalidInputError as error:
                    self._ingest.count_refused(error)
                    raise
                result = await self._take(samples, get_caller(request), trace)
        return reply(request, result.as_dict())

    async def open_socket(self, request: web.Request) -> web.StreamResponse:
        """Take frames of samples, one after the other, until the agent leaves or the daemon stops.

        The next frame is read only when the previous one is taken and its ack is in the socket. So the connection of
        an agent that sends faster than that, or never reads, fills up and blocks the agent (back-pressure).
        """
        acks = request.query.get("ack", "all") != "none"
        caller, owner = get_caller(request), find_owner(request)
        # Chosen once: spans that record nothing would still cost a frame of one sample a tenth of its time.
        take_frame = self._take_frame
        if self._traces is not NO_TRACES:
            take_frame = partial(self._take_traced_frame, self._traces.read_parent(request.headers))
        async with self._sockets.accept_websocket(request) as socket:
            await wait_for_allowance(request)  # or a limited sender would connect anew for each frame
            async for message in self._sockets.read_frames(request, socket):
                if message.type is WSMsgType.TEXT:
                    encoding = Encoding.JSON
                elif message.type is WSMsgType.BINARY:
                    encoding = Encoding.MSGPACK
                else:
                    break
                if len(message.data) < LARGE_BODY_BYTES:
                    answer = await take_frame(message.data, encoding, caller, acks)
                else:
                    async with self._bodies.turns.take_turn(owner):
                        answer = await take_frame(message.data, encoding, caller, acks)
                # An agent that requested no acks may never read: an error is sent only if the send need not wait.
                if answer is not None and (acks or self._sockets.has_read_all(socket)):
                    await self._sockets.send(socket, answer, encoding)
                if caller.has_row_limit:
                    await wait_for_allowance(request)
            return socket

    async def _take_frame(self, data: bytes | str, encoding: Encoding, caller: Caller, acks: bool) -> bytes | None:
        try:
            identifier, samples = await finish_steps(decode_body_in_steps(data, encoding))
            result = await self._ingest.take_samples(samples, caller)
        except StreamdError as error:
            return self._refuse_frame(error, encoding)
        return _make_ack(identifier, result, encoding) if acks else None

    async def _take_traced_frame(
        self, parent: TraceParent, data: bytes | str, encoding: Encoding, caller: Caller, acks: bool
    ) -> bytes | None:
        with self._traces.begin_body("GET /v1/ingest frame", parent) as trace:
            try:
                with trace.run_step("decode"):
                    identifier, samples = await finish_steps(decode_body_in_steps(data, encoding))
                result = await self._take(samples, caller, trace)
            except StreamdError as error:
                return self._refuse_frame(error, encoding)
        return _make_ack(identifier, result, encoding) if acks else None

    def _refuse_frame(self, error: StreamdError, encoding: Encoding) -> bytes:
        self._ingest.count_refused(error)
        return encode(make_error_message(error), encoding)

    async def _take(self, samples: IndexedSamples, caller: Caller, trace: BodyTrace) -> IngestResult:
        with trace.run_step("take"):
            result = await self._ingest.take_samples(trace.follow_samples(samples), caller)
        trace.note_result(result.accepted, result.rejected, result.errors)
        return result


def _make_ack(identifier: Any, result: IngestResult, encoding: Encoding) -> bytes:
    return encode({"type": "ack", "id": identifier, **result.as_dict()}, encoding)
