"""A connection to NATS that is made again whenever it is lost, with its subscriptions.

The client of NATS is used for one connection to one server each: it would wait for a peer that is cut off to take what
is left in the socket before it tries another server.
"""

import asyncio
import itertools
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from streamd.cluster.lasting_tasks import start_task
from streamd.cluster.log import LogAwayError
from streamd.cluster.nats.clients import ClientOpener, end_task
from streamd.cluster.nats.error_reports import ErrorReports
from streamd.cluster.nats.settings import NatsSettings
from streamd.core.errors import TooLargeError

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

log = structlog.get_logger(__name__)

OLDEST_SOUND = (2, 10)
"""Of older servers is warned: 2.9.10 lost messages when servers were killed again and again, 2.15.1 did not."""

_RETRY_SECONDS = 0.2
_MAX_RETRY_SECONDS = 2.0
_CHECK_SECONDS = 0.1
"""How often it is checked whether the connection is lost."""

_DEFAULT_MAX_MESSAGE_BYTES = 2**20

_Take = Callable[["Msg"], Awaitable[None]]


@dataclass(eq=False)
class _StandingSubscription:
    """A subscription that each new connection gets; `live` is that of the present one."""

    subject: str
    take: _Take
    on_lost: Callable[[], None] | None
    live: "Subscription | None" = None


class NatsConnection:
    """One connection, or none for a while; `start` and `close` begin and end it."""

    def __init__(self, settings: NatsSettings) -> None:
        self._settings = settings
        self._opener = ClientOpener(settings)
        self._client: Client | None = None
        self._subscriptions: list[_StandingSubscription] = []
        self._answers: dict[str, asyncio.Future[Msg]] = {}
        self._inbox = f"_INBOX.{os.urandom(12).hex()}"
        self._numbers = itertools.count()
        self._lost = asyncio.Event()
        self._there = asyncio.Event()
        self._reports = ErrorReports()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._failing_since: float | None = None
        self.away_since: float | None = time.monotonic()
        self.problem = ""
        """Why there is no connection, as far as is known; empty while there is one."""
        self.is_old = False
        """Whether the server is of a version with which messages can be lost."""
        self._subscriptions.append(_StandingSubscription(f"{self._inbox}.*", self._take_answer, None))

    def start(self) -> None:
        """Connect, now and after each loss, until `close`."""
        self._task = start_task(self._run())

    async def close(self) -> None:
        """Close the connection; calls in progress fail with `LogAwayError`."""
        self._is_closed = True
        if self._task is not None:
            await end_task(self._task)
        await self._opener.wait_ended()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._client is not None and self._client.is_connected

    @property
    def max_message_bytes(self) -> int:
        """The longest message that the servers take."""
        return self._client.max_payload if self._client is not None else _DEFAULT_MAX_MESSAGE_BYTES

    async def wait_connected(self) -> None:
        """Wait for a connection."""
        await self._there.wait()
        while not self.is_connected:  # lost, and not noticed yet
            await asyncio.sleep(_CHECK_SECONDS)
            await self._there.wait()

    def note_outcome(self, *, is_answered: bool) -> None:
        """Note whether JetStream answered: a server that is cut off from the others never does, and is left."""
        if is_answered:
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = time.monotonic()

    def make_inbox(self) -> str:
        """Return a subject of this client alone."""
        return f"{self._inbox}.of.{next(self._numbers)}"

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Publish a message; raises `LogAwayError`, `TooLargeError`."""
        import nats.errors

        client = self._require_client()
        try:
            await client.publish(subject, data, reply, dict(headers) if headers else None)
        except nats.errors.MaxPayloadError:
            raise TooLargeError(
                f"{subject}: has {len(data)} bytes, expected at most {self.max_message_bytes}"
            ) from None
        except (nats.errors.Error, OSError) as exc:
            raise LogAwayError(f"{subject}: {exc}") from exc

    async def request(
        self, subject: str, data: bytes, *, timeout_seconds: float, headers: Mapping[str, str] | None = None
    ) -> "Msg":
        """Return the answer to a request, which may be the status that no subscriber is there.

        Raises `LogAwayError` if none comes in time or the connection is lost, `TooLargeError`.
        """
        number = str(next(self._numbers))
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.publish(subject, data, reply=f"{self._inbox}.{number}", headers=headers)
                return await answer
        except TimeoutError:
            raise LogAwayError(f"{subject}: no answer in {timeout_seconds:g} s") from None
        finally:
            del self._answers[number]
            if answer.done() and not answer.cancelled():
                answer.exception()  # it may have come while the request was still being sent

    async def subscribe(
        self, subject: str, take: _Take, on_lost: Callable[[], None] | None = None
    ) -> Callable[[], Awaitable[None]]:
        """Call `take` with each message of a subject, after each loss again; returns what ends it.

        Without a connection the subscription begins with the next one. `on_lost` is called at each loss.
        """
        subscription = _StandingSubscription(subject, take, on_lost)
        self._subscriptions.append(subscription)
        if self._client is not None and self.is_connected:
            await self._begin(self._client, subscription)
            await self._wait_served()

        async def unsubscribe() -> None:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
                await self._end(subscription)

        return unsubscribe

    # ------------------------------------------------------------ the connection
    async def _run(self) -> None:
        urls = list(self._settings.urls)
        random.shuffle(urls)
        wait = _RETRY_SECONDS
        for number in itertools.count():
            client = await self._connect(urls[number % len(urls)])
            if client is None:
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(wait * 1.5, _MAX_RETRY_SECONDS)
                continue
            wait = _RETRY_SECONDS
            try:
                await self._use(client)
            finally:
                self._note_loss(client)

    async def _connect(self, url: str) -> "Client | None":
        try:
            return await self._opener.open(url, self._note_error, self._note_end)
        except LogAwayError as exc:
            self.problem = str(exc)
            self._reports.report("nats_unreachable", exc)
            return None

    def _note_error(self, client: "Client", error: Exception) -> None:
        if client is self._client:
            self._reports.report("nats_error", error)

    def _note_end(self, client: "Client") -> None:
        if client is self._client:
            self._lost.set()

    async def _use(self, client: "Client") -> None:
        self._lost.clear()
        self._client = client
        for subscription in list(self._subscriptions):
            if subscription in self._subscriptions:
                await self._begin(client, subscription)
        self.away_since, self.problem = None, ""
        self._there.set()
        log.info(
            "nats_connected", server=client.connected_url.netloc.rpartition("@")[2] if client.connected_url else ""
        )
        version = client.connected_server_version
        self.is_old = (version.major, version.minor) < OLDEST_SOUND
        if self.is_old:
            log.warning(
                "nats_server_old",
                version=f"{version.major}.{version.minor}.{version.patch}",
                reason="servers of 2.9 that are killed may come back without messages that they had",
            )
        while client.is_connected and not self._lost.is_set() and not self._is_useless():
            await asyncio.sleep(_CHECK_SECONDS)

    def _is_useless(self) -> bool:
        since = self._failing_since
        if since is None or len(self._settings.urls) == 1:
            return False
        return time.monotonic() - since > self._settings.failing_seconds

    def _note_loss(self, client: "Client") -> None:
        self._there.clear()
        self._client = None
        self._failing_since = None
        if self.away_since is None:
            self.away_since = time.monotonic()
        if not self._is_closed:
            self.problem = str(client.last_error or "the connection was lost")
            self._reports.report("nats_lost", self.problem)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(LogAwayError("the connection to NATS was lost"))
        for subscription in self._subscriptions:
            subscription.live = None
            if subscription.on_lost is not None:
                subscription.on_lost()
        self._opener.end(client, is_orderly=self._is_closed)

    # ------------------------------------------------------------ subscriptions
    async def _begin(self, client: "Client", subscription: _StandingSubscription) -> None:
        import nats.errors

        try:
            subscription.live = await client.subscribe(subscription.subject, cb=subscription.take)
        except (nats.errors.Error, OSError) as exc:  # the connection is lost again; the next one gets all subscriptions
            self._reports.report("nats_subscription_failed", exc)

    async def _end(self, subscription: _StandingSubscription) -> None:
        import nats.errors

        if subscription.live is None or not self.is_connected:
            return
        try:
            await subscription.live.unsubscribe()
        except (nats.errors.Error, OSError) as exc:
            log.debug("nats_unsubscribe_failed", subject=subscription.subject, error=str(exc))

    async def _wait_served(self) -> None:
        """Wait until the server has done all that was sent before: a message to this client itself comes back."""
        number = str(next(self._numbers))
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                await self.publish(f"{self._inbox}.{number}", b"")
                await answer
        except (TimeoutError, LogAwayError):  # the connection is lost; the next one has the subscription
            log.debug("nats_flush_failed")
        finally:
            del self._answers[number]

    async def _take_answer(self, message: "Msg") -> None:
        answer = self._answers.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _require_client(self) -> "Client":
        if self._client is None or not self._client.is_connected:
            raise LogAwayError("there is no connection to NATS")
        return self._client
