"""Opens clients of NATS, each for one connection to one server, and ends them, whatever their server does."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from streamd.cluster.log import LogAwayError
from streamd.cluster.nats.refusals import describe_refusal, split_login
from streamd.cluster.nats.settings import NatsSettings, make_tls_context, require_credentials, require_nats

if TYPE_CHECKING:
    from nats.aio.client import Client

log = structlog.get_logger(__name__)

_MAX_PINGS = 2
"""Pings without an answer after which a connection counts as lost."""

_MAX_BUFFERED_BYTES = 32 * 2**20

_END_SECONDS = 1.0
"""How long a client may take to end: after a failed handshake of TLS it would wait for ever."""


class ClientOpener:
    """Opens connections by the settings; raises `ConfigError` if nothing can be opened by them."""

    def __init__(self, settings: NatsSettings) -> None:
        require_nats()
        if settings.credentials:
            require_credentials(settings.credentials)
        self._settings = settings
        self._tls = make_tls_context(settings)
        self._endings: set[asyncio.Task[None]] = set()

    async def open(
        self,
        url: str,
        note_error: Callable[["Client", Exception], None],
        note_loss: Callable[["Client"], None],
    ) -> "Client":
        """Return a client that is connected to one server.

        Errors that it meets later go to `note_error`; `note_loss` is called at its end. Raises `LogAwayError` with the
        reason.
        """
        from nats.aio.client import Client

        client = Client()
        reasons: list[Exception] = []

        async def note(error: Exception) -> None:
            reasons.append(error)
            note_error(client, error)

        async def lose() -> None:
            note_loss(client)

        try:
            async with asyncio.timeout(self._settings.connect_seconds + 1.0):
                await self._connect(client, url, note, lose)
                self._require_tls(client)
        except Exception as exc:  # of the client, of TLS, of the credentials: each may be another one next time
            self.end(client)
            raise LogAwayError(describe_refusal(reasons[-1] if reasons else exc, url, self._settings)) from exc
        return client

    async def _connect(
        self,
        client: "Client",
        url: str,
        note: Callable[[Exception], Awaitable[None]],
        lose: Callable[[], Awaitable[None]],
    ) -> None:
        settings = self._settings
        plain, login = split_login(url)
        given: dict[str, object] = {name: partial(self._release_secret, client, value) for name, value in login.items()}
        if settings.credentials:
            given["user_credentials"] = settings.credentials
        if self._tls is not None:
            given["tls"] = self._tls
        await client.connect(
            [plain],
            name=settings.name,
            error_cb=note,
            closed_cb=lose,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=settings.connect_seconds,  # type: ignore[arg-type]
            ping_interval=settings.ping_seconds,  # type: ignore[arg-type]
            max_outstanding_pings=_MAX_PINGS,
            pending_size=_MAX_BUFFERED_BYTES,
            **given,  # type: ignore[arg-type]
        )

    def _release_secret(self, client: "Client", secret: str) -> str:
        """Return a part of the login when the client sends it, after the handshake."""
        self._require_tls(client)
        return secret

    def _require_tls(self, client: "Client") -> None:
        """Raise `LogAwayError` if a connection should be encrypted and is not: the client leaves that to servers."""
        writer = _find_writer(client)
        if self._settings.uses_tls and (writer is None or writer.get_extra_info("ssl_object") is None):
            raise LogAwayError("the server does not use TLS")

    def end(self, client: "Client", *, is_orderly: bool = False) -> None:
        """End a client in the background, at once; an orderly end sends what its socket has not sent, for a moment."""
        task = asyncio.get_running_loop().create_task(_end_client(client, is_orderly))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def wait_ended(self) -> None:
        """Wait until all that were to end have ended."""
        await asyncio.gather(*self._endings, return_exceptions=True)


async def _end_client(client: "Client", is_orderly: bool) -> None:
    if is_orderly and client.is_connected:
        await asyncio.wait([asyncio.ensure_future(client.close())], timeout=_END_SECONDS)
    writer = _find_writer(client)
    if writer is not None:
        writer.transport.abort()
    closing = asyncio.ensure_future(client.close())
    await asyncio.wait([closing], timeout=_END_SECONDS)
    await end_task(closing)


def _find_writer(client: "Client") -> asyncio.StreamWriter | None:
    return getattr(getattr(client, "_transport", None), "_io_writer", None)


async def end_task(task: "asyncio.Future[None]") -> None:
    """Cancel a task until it has ended: the client of NATS may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("task_ended_with_error", error=str(error))
