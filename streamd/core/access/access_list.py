"""The tokens that hold now, and who presents one. Secrets are compared in constant time; time is a parameter."""

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamd.core.access.caller import ANYBODY, EVERYTHING_BUT_ADMIN, Caller
from streamd.core.access.records import TokenRecord, find_token_id, hash_token
from streamd.core.access.scopes import Scope
from streamd.core.errors import UnauthorizedError

_NO_HASH = bytes(32)
"""Compared in place of the hash of an unknown token, so that both answers take equally long; nothing has this hash."""


@dataclass
class AccessReloads:
    """Counts of the changes of the tokens file and of the files of TLS."""

    applied: int = 0
    """Changes that hold since they were found."""

    rejected: int = 0
    """Changes that could not be used; what held before still holds."""

    rejected_files: set[str] = field(default_factory=set)
    """The files, `tokens` or `tls`, whose present content is not in use, because it was rejected."""

    certificate_expires: float = 0.0
    """The end of validity of the certificate in use, in epoch seconds; 0 without TLS."""


class AccessList:
    """The callers of one daemon.

    Without `records` (`None`) the list is open: a caller that presents no valid token is `anonymous`, and may do
    everything but administrate. It never becomes open later, even if no record is left. `admin_token` is that of
    the settings: one more token, for administration, and in an open list for everything.
    """

    def __init__(self, records: Sequence[TokenRecord] | None = None, admin_token: str = "") -> None:
        self.is_open = records is None
        self._admin_hash = hash_token(admin_token) if admin_token else None
        self._admin = Caller("admin_token", dict.fromkeys(Scope if self.is_open else (Scope.ADMIN,), ("*",)))
        self.anonymous = Caller("anonymous", EVERYTHING_BUT_ADMIN, is_anonymous=True) if admin_token else ANYBODY
        """The caller without a token, while the list is open."""

        self.reloads = AccessReloads()
        self._entries: dict[str, _Entry] = {}
        """The records with their callers by `TokenRecord.key`."""

        if records is not None:
            self.replace(records)

    def __repr__(self) -> str:
        return f"<AccessList is_open={self.is_open} tokens={len(self._entries)}>"

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def callers(self) -> Iterator[Caller]:
        """The callers of all tokens, of the settings' admin token too, whether or not they are connected."""
        yield from (entry.caller for entry in self._entries.values())
        if self._admin_hash is not None:
            yield self._admin

    def describe(self) -> dict[str, Any]:
        """Return what `/v1/status` shows of access: no secret, no hash, no name and no content of a file."""
        return {
            "open": self.is_open,
            "tokens": len(self),
            "reloads": {"applied": self.reloads.applied, "rejected": self.reloads.rejected},
            "rejected_files": sorted(self.reloads.rejected_files),
        }

    def identify(self, secret: str | None, certificate_names: Sequence[str], now: float) -> Caller:
        """Return the caller that presents a secret, or else a verified client certificate with these names.

        `now` is in epoch seconds. Raises `UnauthorizedError` if there is no such token or it has expired. In an open
        list a secret that is unknown is ignored: agents may be configured with one that no daemon checks.
        """
        if secret is None:
            entry = self._find_certificate(certificate_names)
            caller = entry.caller if entry is not None else None
        else:
            caller = self._find_secret(secret)
        if caller is not None:
            if caller.is_revoked or now >= caller.expires_at:
                raise UnauthorizedError(f"the token {caller.name!r} has expired")
            return caller
        if self.is_open:
            return self.anonymous
        if secret is None:
            raise UnauthorizedError("this call needs a token; send the header Authorization: Bearer TOKEN")
        raise UnauthorizedError("the token is not known to this daemon")

    def replace(self, records: Sequence[TokenRecord]) -> list[Caller]:
        """Let these records hold from now on; return the callers that are revoked by it.

        A record that is unchanged keeps its caller with its usage; one that changed gets a new caller, and the old
        one is revoked, so that no connection keeps rights that its token has lost. `records` are those of one file,
        so keys are unique.
        """
        assert not self.is_open, "the daemon was started with a tokens file"
        before, self._entries = self._entries, {}
        for record in records:
            old = before.get(record.key)
            self._entries[record.key] = old if old is not None and old.record == record else _Entry(record)
        return _revoke(
            [entry.caller for key, entry in before.items() if self._entries.get(key) is not entry],
        )

    def revoke_expired(self, now: float) -> list[Caller]:
        """Revoke the callers whose tokens have expired since the last call, and return them; `now` in epoch seconds."""
        return _revoke([caller for caller in self.callers if now >= caller.expires_at and not caller.is_revoked])

    def forget_server(self, name: str) -> None:
        """Free the place that a server has in the limits of its writers, because the daemon has forgotten it."""
        for entry in self._entries.values():
            entry.caller.usage.forget_server(name)

    def _find_secret(self, secret: str) -> Caller | None:
        sent = hash_token(secret)
        entry = self._entries.get(find_token_id(secret) or "")
        is_right = hmac.compare_digest(sent, _NO_HASH if entry is None else entry.hash)
        is_admin = hmac.compare_digest(sent, self._admin_hash or _NO_HASH)
        if entry is not None and is_right:
            return entry.caller
        return self._admin if is_admin and self._admin_hash is not None else None

    def _find_certificate(self, names: Sequence[str]) -> "_Entry | None":
        keys = (f"certificate {name}" for name in names if name)
        return next((self._entries[key] for key in keys if key in self._entries), None)


class _Entry:
    """A record with its caller."""

    __slots__ = ("caller", "hash", "record")

    def __init__(self, record: TokenRecord) -> None:
        self.record = record
        self.hash = bytes.fromhex(record.sha256)
        self.caller = Caller(record.name, record.scopes, record.limits, expires_at=record.expires_at)


def _revoke(callers: list[Caller]) -> list[Caller]:
    for caller in callers:
        caller.revoke()
    return callers
