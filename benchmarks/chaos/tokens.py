"""The tokens of a chaos run, in the tokens file of its daemon: one for each kind of caller, and a guest's that comes
and goes.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GUEST = "guest"
SCOPES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "sender": {"ingest": ["*"]},
    "reader": {"read": ["*"]},
    "everything": {"subscribe": ["*"]},
    "web": {"subscribe": ["web-*"]},
    GUEST: {"subscribe": ["db-*"]},
    "load": {scope: ["*"] for scope in ("ingest", "subscribe", "read")},
}
"""The scopes of each token, with the globs of the servers that each reaches."""


class ChaosTokens:
    """The tokens; with `are_used` false, callers send none and everything is allowed."""

    def __init__(self, path: Path, *, are_used: bool) -> None:
        self.path = path
        self.are_used = are_used
        self._secrets = {name: f"streamd_{secrets.token_hex(6)}_{secrets.token_hex(32)}" for name in SCOPES}
        self.restore_guest()

    def make_headers(self, name: str) -> dict[str, str]:
        """Return the headers of a caller with this token."""
        return {"Authorization": f"Bearer {self._secrets[name]}"} if self.are_used else {}

    def list_allowed(self, name: str) -> tuple[str, ...]:
        """Return the globs of the servers whose forecasts this token may receive."""
        return tuple(SCOPES[name].get("subscribe", ())) if self.are_used else ("*",)

    def revoke_guest(self) -> None:
        """Write the file without the guest's token."""
        self._write([name for name in SCOPES if name != GUEST])

    def restore_guest(self) -> None:
        """Write the file with all tokens."""
        self._write(list(SCOPES))

    def _write(self, names: Sequence[str]) -> None:
        content = {"version": 1, "tokens": [self._make_record(name) for name in names]}
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(content), encoding="ascii")
        fresh.chmod(0o600)
        os.replace(fresh, self.path)

    def _make_record(self, name: str) -> dict[str, Any]:
        token = self._secrets[name]
        digest = hashlib.sha256(token.encode()).hexdigest()
        return {"name": name, "id": token.split("_")[1], "sha256": digest, "scopes": SCOPES[name]}
