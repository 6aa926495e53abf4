"""One WebSocket of an agent: frames of one sample are taken and acknowledged together, each other frame alone.

Decodes nothing itself and writes no row; `routes/samples.py` opens the sockets.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from aiohttp import WSMessage, WSMsgType

from streamd.core.access.caller import Caller
from streamd.core.errors import StreamdError
from streamd.core.state.samples import CellSample
from streamd.http.errors import make_error_message
from streamd.http.pending_answers import PendingAnswers
from streamd.http.turn_reader import SMALL_BYTES
from streamd.http.wire.codecs import Encoding, encode
from streamd.http.wire.single_samples import SingleDecoder, SingleFrame, make_single_ack
from streamd.http.wire.websocket_frames import frame_message

AnswerFrame = Callable[[WSMessage, Encoding], Awaitable[bytes | None]]
"""Takes one frame of any shape; returns its answer, if it gets one."""

Outcome = Sequence[StreamdError | None] | StreamdError
"""The error of each sample, `None` if it was accepted, empty if all were; or the reason why they are refused."""

MAX_PENDING = 4
"""Batches whose samples other processes are taking, while the socket goes on reading."""


class SinglesElsewhere(Protocol):
    """A taker of single samples that needs other processes for some of them (`WorkerSingles`)."""

    def begin(self, samples: Sequence[CellSample[Any]], caller: Caller, answer: Callable[[Outcome], None]) -> bool:
        """Begin to take samples; `answer` is called later, with their errors or the reason why they are refused.

        Returns `False`, and takes nothing, if some are not usual.
        """
        ...

    async def take(self, samples: Sequence[CellSample[Any]], caller: Caller) -> Sequence[StreamdError | None]:
        """Take samples, usual or not; returns the error of each."""
        ...


class SingleTaker(Protocol):
    """A taker of single samples (`Ingest`)."""

    def take_few(self, samples: Sequence[CellSample[Any]], caller: Caller) -> list[StreamdError | None]:
        """Take samples, at least one; returns the errors of those that were taken."""
        ...

    def count_refused(self, error: StreamdError) -> None:
        """Count a frame that was rejected as a whole."""
        ...


class AgentSocket(Protocol):
    """The agent at the other end of a socket: it is sent answers, and it may leave."""

    async def send_frames(self, frames: bytes) -> None:
        """Send whole WebSocket frames; raises `ConnectionError` if the agent has left or does not read in time."""
        ...

    def write_frames(self, frames: bytes) -> None:
        """Send whole frames without a wait."""
        ...

    async def wait_until_written(self) -> None:
        """Wait until more may be sent; raises `ConnectionError` as `send_frames` does."""
        ...

    async def is_over(self) -> bool:
        """Whether the socket was closed, after a wait if it is the turn of others."""
        ...


class SampleSocket:
    """The frames of one agent, in their order.

    Acks are sent after their rows are in the window store, and before the next frames are read. If other processes
    take some, a few batches more may be read before.
    """

    def __init__(
        self,
        agent: AgentSocket,
        taker: SingleTaker,
        decoder: SingleDecoder | None,
        answer_frame: AnswerFrame,
        *,
        caller: Caller,
        acks: bool,
        elsewhere: SinglesElsewhere | None = None,
    ) -> None:
        self._agent = agent
        self._taker = taker
        self._decoder = decoder
        """`None` if each frame is taken alone."""
        self._answer_frame = answer_frame
        self._caller = caller
        self._acks = acks
        self._elsewhere = elsewhere
        """Takes single samples in place of `taker` if other processes are needed for some."""
        self._pending = PendingAnswers(agent.write_frames)

    async def take_batch(self, messages: Sequence[WSMessage]) -> bool:
        """Take messages in their order; returns whether to read more."""
        if self._elsewhere is not None:
            await self._agent.wait_until_written()
        waiting: list[tuple[SingleFrame[Any], Encoding]] = []
        for message in messages:
            encoding = Encoding.JSON if message.type is WSMsgType.TEXT else Encoding.MSGPACK
            frame = self._decode(message.data, encoding)
            if frame is not None:
                waiting.append((frame, encoding))
            elif not (await self._take_singles(waiting) and await self._take_alone(message, encoding, len(messages))):
                return False
            else:
                waiting = []
        return await self._take_singles(waiting)

    def _decode(self, data: bytes | str, encoding: Encoding) -> SingleFrame[Any] | None:
        if self._decoder is None or len(data) >= SMALL_BYTES:
            return None
        return self._decoder.decode_frame(data, encoding)

    async def _take_alone(self, message: WSMessage, encoding: Encoding, batched: int) -> bool:
        await self._pending.wait_below(1)
        answer = await self._answer_frame(message, encoding)
        if answer is not None:
            await self._agent.send_frames(frame_message(answer, encoding))
        # Alone in its batch, it is followed by the check of the next one.
        return batched == 1 or not await self._agent.is_over()

    async def _take_singles(self, frames: list[tuple[SingleFrame[Any], Encoding]]) -> bool:
        """Take frames of one sample, and send their answers with one write; returns whether to go on."""
        if self._elsewhere is not None:
            await self._hand_on(self._elsewhere, frames)
            return True
        while frames:
            answers = self._answer_singles(frames)
            frames = frames[len(answers) :]
            if self._acks or any(answers):
                await self._agent.send_frames(b"".join(answers))
            if frames and await self._agent.is_over():
                return False
        return True

    def _answer_singles(self, frames: list[tuple[SingleFrame[Any], Encoding]]) -> list[bytes]:
        """Take frames until they are much work; returns the answers of those that were taken."""
        try:
            errors = self._taker.take_few([frame.samples[0] for frame, _ in frames], self._caller)
        except StreamdError as refusal:
            return [self._refuse(refusal, encoding) for _, encoding in frames]
        return self._make_acks(frames, errors)

    async def _hand_on(self, elsewhere: SinglesElsewhere, frames: list[tuple[SingleFrame[Any], Encoding]]) -> None:
        """Begin to take frames of one sample; their answers are sent when they are taken."""
        if not frames:
            return
        await self._pending.wait_below(MAX_PENDING)
        pending, samples = self._pending.expect(), [frame.samples[0] for frame, _ in frames]

        def answer(outcome: Outcome) -> None:
            pending.give(b"".join(self._make_answers(frames, outcome)))

        if not elsewhere.begin(samples, self._caller, answer):
            await self._pending.wait_below(2)  # those before it
            try:
                answer(await elsewhere.take(samples, self._caller))
            except StreamdError as refusal:
                answer(refusal)

    def _make_answers(self, frames: list[tuple[SingleFrame[Any], Encoding]], outcome: Outcome) -> list[bytes]:
        if isinstance(outcome, StreamdError):
            return [self._refuse(outcome, encoding) for _, encoding in frames]
        return self._make_acks(frames, outcome or [None] * len(frames))

    def _make_acks(
        self, frames: list[tuple[SingleFrame[Any], Encoding]], errors: Sequence[StreamdError | None]
    ) -> list[bytes]:
        if not self._acks:
            return [b""] * len(errors)
        return [
            make_single_ack(frame.id, error, encoding) for (frame, encoding), error in zip(frames, errors, strict=False)
        ]

    def _refuse(self, error: StreamdError, encoding: Encoding) -> bytes:
        self._taker.count_refused(error)
        return frame_message(encode(make_error_message(error), encoding), encoding)
