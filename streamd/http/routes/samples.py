"""Samples in: the route `POST /v1/samples` and the WebSocket `GET /v1/ingest`.

`wire/bodies.py` decodes; `runtime/ingest.py` writes the rows.
"""

from functools import partial
from typing import Protocol

from aiohttp import WSMessage, web

from streamd.core.access.caller import Caller
from streamd.core.errors import DrainingError, InvalidInputError, StreamdError
from streamd.core.state.column_frames import ColumnFrame
from streamd.core.state.samples import IndexedSamples, IngestResult
from streamd.http.access.allowance import wait_for_allowance
from streamd.http.access.context import get_caller
from streamd.http.body_turns import LARGE_BODY_BYTES, finish_steps
from streamd.http.errors import make_error_message, reply
from streamd.http.message_readers import BATCHED_MESSAGES, BatchReader
from streamd.http.requests import BodyReader, find_owner
from streamd.http.sample_socket import AnswerFrame, SampleSocket, SinglesElsewhere
from streamd.http.sockets import Sockets
from streamd.http.turn_reader import SMALL_BYTES
from streamd.http.wire.bodies import SampleList, decode_body_in_steps
from streamd.http.wire.body_types import Identifier
from streamd.http.wire.codecs import Encoding, encode, parse_content_type
from streamd.http.wire.column_frames import ColumnDecoder
from streamd.http.wire.single_samples import SingleDecoder, make_ack, make_single_result
from streamd.runtime.service import Service
from streamd.runtime.traces import NO_TRACES, UNTRACED, BodyTrace, TraceParent


class SampleTaker(Protocol):
    """A taker of samples (`Ingest`, or a worker's)."""

    is_draining: bool

    async def take_samples(self, samples: IndexedSamples, caller: Caller) -> IngestResult:
        """Take a body of samples; raises `StreamdError` if it is refused as a whole."""
        ...

    async def take_frame(self, frame: ColumnFrame, caller: Caller) -> IngestResult:
        """Take a frame of columns, as `take_samples`."""
        ...

    def count_refused(self, error: StreamdError) -> None:
        """Count a body that was rejected as a whole."""
        ...


class SampleRoutes:
    """Handlers for agents that send samples."""

    def __init__(
        self,
        service: Service,
        bodies: BodyReader,
        sockets: Sockets,
        taker: SampleTaker | None = None,
        elsewhere: SinglesElsewhere | None = None,
    ) -> None:
        self._ingest: SampleTaker = taker or service.ingest
        self._singles = service.ingest
        self._elsewhere = elsewhere
        self._takes_bodies_of_one = taker is None
        self._takes_singles = service.ingest.points is None and (taker is None or elsewhere is not None)
        self._column_decoder = ColumnDecoder()
        self._single_decoder = SingleDecoder(service.ingest.rows.cells_type)
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
                single = self._take_single(body, encoding, get_caller(request))
                if single is not None:
                    return reply(request, single.as_dict())
                try:
                    with trace.run_step("decode"):
                        _, samples = await self._decode(body, encoding)
                except InvalidInputError as error:
                    self._ingest.count_refused(error)
                    raise
                result = await self._take(samples, get_caller(request), trace)
        return reply(request, result.as_dict())

    def _take_single(self, body: bytes, encoding: Encoding, caller: Caller) -> IngestResult | None:
        """Take a body of one sample as a frame of one is taken; returns `None`, and takes nothing, if it is another."""
        takes_single = self._takes_bodies_of_one and len(body) < SMALL_BYTES
        decoder = self._choose_decoder() if takes_single else None
        frame = None if decoder is None else decoder.decode_frame(body, encoding)
        return None if frame is None else make_single_result(self._singles.take_few(frame.samples, caller)[0])

    async def open_socket(self, request: web.Request) -> web.StreamResponse:
        """Take frames of samples, in their order, until the agent leaves or the daemon stops.

        The next frames are read only when those before are taken and their acks are in the socket. So the connection
        of an agent that sends faster than that, or never reads, fills up and blocks the agent (back-pressure).
        """
        acks = request.query.get("ack", "all") != "none"
        caller = get_caller(request)
        async with self._sockets.accept_websocket(request) as socket:
            await wait_for_allowance(request)  # or a limited sender would connect anew for each frame
            # A limited sender waits after each frame, so the next one is not read before.
            batches = self._sockets.read_batches(request, socket, 1 if caller.has_row_limit else BATCHED_MESSAGES)
            agent = _Agent(self._sockets, request, socket, batches, acks)
            decoder, take_frame = self._choose_decoder(), self._choose_taker(request, acks)
            frames = SampleSocket(
                agent, self._singles, decoder, take_frame, caller=caller, acks=acks, elsewhere=self._elsewhere
            )
            async for messages in batches:
                if not await frames.take_batch(messages):
                    break
                if caller.has_row_limit:
                    await wait_for_allowance(request)
            return socket

    def _choose_decoder(self) -> SingleDecoder | None:
        """Return the decoder of frames that are taken together; `None` if rows are means, or frames have spans."""
        has_spans = self._traces is not NO_TRACES
        return None if has_spans or not self._takes_singles else self._single_decoder

    def _choose_taker(self, request: web.Request, acks: bool) -> AnswerFrame:
        """Return what takes one frame. Spans that record nothing would still cost a small frame a tenth of its time."""
        caller, owner = get_caller(request), find_owner(request)
        take_frame = self._take_frame
        if self._traces is not NO_TRACES:
            take_frame = partial(self._take_traced_frame, self._traces.read_parent(request.headers))

        async def answer_frame(message: WSMessage, encoding: Encoding) -> bytes | None:
            if len(message.data) < LARGE_BODY_BYTES:
                return await take_frame(message.data, encoding, caller, acks)
            async with self._bodies.turns.take_turn(owner):
                return await take_frame(message.data, encoding, caller, acks)

        return answer_frame

    async def _take_frame(self, data: bytes | str, encoding: Encoding, caller: Caller, acks: bool) -> bytes | None:
        try:
            identifier, samples = await self._decode(data, encoding)
            if isinstance(samples, ColumnFrame):
                result = await self._ingest.take_frame(samples, caller)
            else:
                result = await self._ingest.take_samples(samples, caller)
        except StreamdError as error:
            return self._refuse_frame(error, encoding)
        return make_ack(identifier, result, encoding) if acks else None

    async def _take_traced_frame(
        self, parent: TraceParent, data: bytes | str, encoding: Encoding, caller: Caller, acks: bool
    ) -> bytes | None:
        with self._traces.begin_body("GET /v1/ingest frame", parent) as trace:
            try:
                with trace.run_step("decode"):
                    identifier, samples = await self._decode(data, encoding)
                result = await self._take(samples, caller, trace)
            except StreamdError as error:
                return self._refuse_frame(error, encoding)
        return make_ack(identifier, result, encoding) if acks else None

    def _refuse_frame(self, error: StreamdError, encoding: Encoding) -> bytes:
        self._ingest.count_refused(error)
        return encode(make_error_message(error), encoding)

    async def _decode(self, data: bytes | str, encoding: Encoding) -> tuple[Identifier, IndexedSamples | ColumnFrame]:
        columns = self._column_decoder.decode(data, encoding)
        if columns is not None:
            return columns
        identifier, samples = await finish_steps(decode_body_in_steps(data, encoding))
        joined = self._column_decoder.join_samples(samples.samples) if isinstance(samples, SampleList) else None
        return identifier, samples if joined is None else joined

    async def _take(self, samples: IndexedSamples | ColumnFrame, caller: Caller, trace: BodyTrace) -> IngestResult:
        with trace.run_step("take"):
            if not isinstance(samples, ColumnFrame):
                result = await self._ingest.take_samples(trace.follow_samples(samples), caller)
            elif trace is UNTRACED:
                result = await self._ingest.take_frame(samples, caller)
            else:  # a body that is traced is followed row by row
                result = await self._ingest.take_samples(trace.follow_samples(samples.make_samples()), caller)
        trace.note_result(result.accepted, result.rejected, result.errors)
        return result


class _Agent:
    """The sender of a WebSocket, as `SampleSocket` needs it."""

    def __init__(
        self, sockets: Sockets, request: web.Request, socket: web.WebSocketResponse, batches: BatchReader, acks: bool
    ) -> None:
        self._sockets = sockets
        self._request = request
        self._socket = socket
        self._acks = acks
        self.is_over = batches.frames.is_over

    async def send_frames(self, frames: bytes) -> None:
        """Send answers. An agent that requested no acks may never read: then only if the send need not wait."""
        if self._acks or self._sockets.has_read_all(self._socket):
            await self._sockets.send_frames(self._request, self._socket, frames)

    def write_frames(self, frames: bytes) -> None:
        """Send answers without a wait; nothing happens if the agent has left."""
        if self._acks or self._sockets.has_read_all(self._socket):
            self._sockets.write_frames(self._socket, frames)

    async def wait_until_written(self) -> None:
        """Wait until more may be sent; raises `ConnectionError` as `send_frames` does."""
        await self._sockets.wait_until_written(self._request)
