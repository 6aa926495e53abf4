"""Keeps the access of a running daemon current: tokens and certificates are read again when their files change.

Files are read in threads. A change that cannot be used changes nothing: what held before still holds, and the log says
why, once.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import structlog

from streamd.core.access.access_list import AccessList
from streamd.core.access.caller import Caller
from streamd.core.access.records import TokenRecord
from streamd.http.connection_table import ConnectionTable
from streamd.http.sockets import Sockets
from streamd.runtime.background import run_in_background
from streamd.server.access.tokens_file import find_tokens_file
from streamd.server.access.watched_files import Reread, WatchedFiles
from streamd.server.config import AccessSection
from streamd.server.tls import LoadedTls, TlsSwitch, find_tls_files, load_tls

log = structlog.get_logger(__name__)

T = TypeVar("T")

FILE_CHECK_SECONDS = 2.0
"""The interval at which files are checked: a token that is revoked ends its sockets within a little more."""

MAX_LOGGED_NAMES = 20
"""The names of revoked tokens that one line of the log lists."""

CallersRevoked = Callable[[Sequence[Caller]], None]
"""Called on the event loop with callers that permit nothing any more, to end their sockets."""

TokenFiles = WatchedFiles[tuple[TokenRecord, ...]]
CertificateFiles = WatchedFiles[LoadedTls]


class AccessControl:
    """The access list and the TLS context of one daemon, with the files that they are made from.

    `wall` returns epoch seconds. Call `govern` before `run`.
    """

    def __init__(
        self,
        access: AccessList,
        tokens: TokenFiles | None = None,
        certificates: CertificateFiles | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.access = access
        self.on_revoked: CallersRevoked = lambda callers: None
        self.on_client_ca_changed: Callable[[], None] = lambda: None
        """Called on the event loop when other client CAs are trusted than before, to end the connections of before."""
        self._tokens = tokens
        self._certificates = certificates
        self._tls = None if certificates is None else TlsSwitch(certificates.first)
        self._wall = wall
        self._checking = asyncio.Lock()

    def govern(self, sockets: Sockets, table: ConnectionTable) -> None:
        """Let changes of tokens and client CAs end the sockets and connections of an application that they concern."""
        self.on_revoked = lambda callers: sockets.end_revoked()
        self.on_client_ca_changed = table.end_former

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The context to listen with; `None` without TLS."""
        return None if self._tls is None else self._tls.context

    async def run(self, check_seconds: float = FILE_CHECK_SECONDS) -> None:
        """Check the files and the expiry of tokens at this interval, until cancelled."""
        await asyncio.gather(
            _repeat(check_seconds, self.check_files),
            _repeat(check_seconds, self.revoke_expired),  # on its own: reading a file may hang
        )

    async def check_files(self, *, is_requested: bool = False) -> None:
        """Read the files that changed and use them; all of them if it `is_requested`."""
        async with self._checking:
            if (tokens := await self._check(self._tokens, is_requested)) is not None:
                self._use_tokens(tokens)
            if (certificates := await self._check(self._certificates, is_requested)) is not None:
                self._use_certificates(certificates)

    async def revoke_expired(self) -> None:
        """Revoke the callers whose tokens have expired."""
        expired = self.access.revoke_expired(self._wall())
        if expired:
            log.info("tokens_expired", tokens=_list_names(expired))
            self.on_revoked(expired)

    async def _check(self, files: WatchedFiles[T] | None, is_requested: bool) -> Reread[T] | None:
        if files is None:
            return None
        reread = await run_in_background(partial(files.check, is_requested=is_requested))
        if reread is None:
            return None
        reloads = self.access.reloads
        if reread.error:
            reloads.rejected += 1
            reloads.rejected_files.add(files.name)
        else:
            reloads.applied += 1
            reloads.rejected_files.discard(files.name)
        return reread

    def _use_tokens(self, reread: Reread[tuple[TokenRecord, ...]]) -> None:
        if reread.value is None:
            log.error("tokens_rejected", error=reread.error, tokens=len(self.access))
            return
        revoked = self.access.replace(reread.value)
        log.info("tokens_changed", tokens=len(self.access), revoked=_list_names(revoked))
        if revoked:
            self.on_revoked(revoked)

    def _use_certificates(self, reread: Reread[LoadedTls]) -> None:
        assert self._tls is not None, "there are certificates"
        if reread.value is None:
            log.error("certificate_rejected", error=reread.error)
            return
        has_other_ca = self._tls.use(reread.value)
        self.access.reloads.certificate_expires = reread.value.expires
        log.info("certificate_changed", client_ca_changed=has_other_ca)
        if has_other_ca:
            self.on_client_ca_changed()


def open_access(settings: AccessSection, admin_token: str, environ: Mapping[str, str] = os.environ) -> AccessControl:
    """Read the tokens and certificates that the settings name.

    Reads files, so it is called in a thread. Raises `ConfigError` naming the file that cannot be used.
    """
    file = find_tokens_file(settings.tokens_file, environ)
    tokens = None if file is None else WatchedFiles("tokens", [file.path], file.read)
    tls_files = find_tls_files(settings)
    certificates = None if tls_files is None else WatchedFiles("tls", list(tls_files), partial(load_tls, tls_files))
    access = AccessList(None if tokens is None else tokens.first, admin_token)
    access.reloads.certificate_expires = 0.0 if certificates is None else certificates.first.expires
    log.info(
        "access",
        open=access.is_open,
        tokens_file=None if file is None else str(file.path),
        tokens=len(access),
        tls=certificates is not None,
        client_certificates=bool(settings.tls_client_ca),
    )
    return AccessControl(access, tokens, certificates)


async def _repeat(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception:
            # Whatever it is, the next check must still revoke tokens.
            log.exception("access_check_failed")


def _list_names(callers: Sequence[Caller]) -> list[str]:
    return [caller.name for caller in callers[:MAX_LOGGED_NAMES]]
