"""Tests `streamd/server/access/control.py`: changed files change who may call, and a bad change changes nothing."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from streamd.core.access.caller import Caller
from streamd.core.access.records import TokenRecord, encode_tokens_file, format_token, hash_token
from streamd.core.access.scopes import Scope
from streamd.core.errors import ConfigError, UnauthorizedError
from streamd.server.access.control import open_access
from streamd.server.config import AccessSection
from streamd.server.tls import load_tls
from tests.support.made_certificates import CertificateFolder


def make_token(number: int) -> str:
    return format_token(f"{number:012x}", f"{number:064x}")


def make_record(number: int, **fields: Any) -> TokenRecord:
    hashed = hash_token(make_token(number)).hex()
    scopes: dict[Scope, tuple[str, ...]] = {Scope.READ: ("*",)}
    return TokenRecord(name=f"token-{number}", id=f"{number:012x}", sha256=hashed, scopes=scopes, **fields)


class TokensOnDisk:
    """A tokens file with the control of a daemon that was started with it."""

    def __init__(self, path: Path, *records: TokenRecord) -> None:
        self.path = path
        self.write(encode_tokens_file(records))
        self.control = open_access(AccessSection(tokens_file=str(path)), "", {})
        self.revoked: list[str] = []
        self.control.on_revoked = self._note_revoked

    def _note_revoked(self, callers: Sequence[Caller]) -> None:
        assert all(caller.is_revoked for caller in callers)
        self.revoked += [caller.name for caller in callers]

    def write(self, content: bytes) -> None:
        self.path.write_bytes(content)
        self.path.chmod(0o600)

    def knows(self, number: int) -> bool:
        try:
            return not self.control.access.identify(make_token(number), (), 0.0).is_revoked
        except UnauthorizedError:
            return False


@pytest.fixture
def tokens(tmp_path: Path) -> TokensOnDisk:
    """A file with the tokens 1 and 2."""
    return TokensOnDisk(tmp_path / "tokens.json", make_record(1), make_record(2))


# ---------------------------------------------------------------- tokens
async def test_a_changed_file_revokes_and_admits(tokens: TokensOnDisk) -> None:
    tokens.write(encode_tokens_file([make_record(2), make_record(3)]))
    with capture_logs() as logs:
        await tokens.control.check_files()
        await tokens.control.check_files()
    assert tokens.revoked == ["token-1"]
    assert [tokens.knows(number) for number in (1, 2, 3)] == [False, True, True]
    assert [(line["event"], line["tokens"], line["revoked"]) for line in logs] == [("tokens_changed", 2, ["token-1"])]
    assert tokens.control.access.describe()["reloads"] == {"applied": 1, "rejected": 0}


BAD: dict[str, bytes | None] = {
    "invalid": b'{"version": 1, "tokens": [{"name": "x"}]}',
    "empty": b"",
    "cut": encode_tokens_file([make_record(1)])[:-20],
    "deleted": None,
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
async def test_a_bad_file_keeps_the_tokens_and_is_reported_once(tokens: TokensOnDisk, content: bytes | None) -> None:
    if content is None:
        tokens.path.unlink()
    else:
        tokens.write(content)
    with capture_logs() as logs:
        for _ in range(3):
            await tokens.control.check_files()
    assert [(line["event"], line["log_level"]) for line in logs] == [("tokens_rejected", "error")]
    assert str(tokens.path) in logs[0]["error"]
    access = tokens.control.access
    assert (tokens.revoked, access.is_open) == ([], False)
    assert [tokens.knows(number) for number in (1, 2, 3)] == [True, True, False]
    assert access.describe() | {"open": False} == {
        "open": False,
        "tokens": 2,
        "reloads": {"applied": 0, "rejected": 1},
        "rejected_files": ["tokens"],
    }
    # Repaired, the file counts again.
    tokens.write(encode_tokens_file([make_record(2)]))
    await tokens.control.check_files()
    assert tokens.revoked == ["token-1"]
    assert access.describe()["rejected_files"] == []


async def test_a_file_without_tokens_serves_no_caller(tokens: TokensOnDisk) -> None:
    tokens.write(encode_tokens_file([]))
    await tokens.control.check_files()
    assert tokens.revoked == ["token-1", "token-2"]
    with pytest.raises(UnauthorizedError):
        tokens.control.access.identify(None, (), 0.0)


async def test_an_expired_token_is_revoked(tmp_path: Path) -> None:
    tokens = TokensOnDisk(tmp_path / "tokens.json", make_record(1, expires=100.0), make_record(2))
    now = 99.0
    tokens.control._wall = lambda: now
    await tokens.control.revoke_expired()
    assert tokens.revoked == []
    now = 100.0
    with capture_logs() as logs:
        await tokens.control.revoke_expired()
        await tokens.control.revoke_expired()
    assert tokens.revoked == ["token-1"]
    assert [(line["event"], line["tokens"]) for line in logs] == [("tokens_expired", ["token-1"])]


async def test_it_checks_until_cancelled_whatever_fails(tokens: TokensOnDisk) -> None:
    failed = asyncio.Event()
    applied = asyncio.Event()

    def fail(callers: Sequence[Caller]) -> None:
        (applied if failed.is_set() else failed).set()
        raise RuntimeError("a defect")

    tokens.control.on_revoked = fail
    with capture_logs() as logs:
        running = asyncio.create_task(tokens.control.run(check_seconds=0.001))
        tokens.write(encode_tokens_file([make_record(2)]))
        await failed.wait()
        tokens.write(encode_tokens_file([]))
        await applied.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert "access_check_failed" in {line["event"] for line in logs}
    assert not tokens.knows(2)


# ---------------------------------------------------------------- certificates
async def test_a_renewed_certificate_is_used_and_a_bad_pair_is_not(tmp_path: Path) -> None:
    certificates = CertificateFolder(tmp_path)
    files = certificates.issue("server")
    settings = AccessSection(tls_certificate=str(files.certificate), tls_key=str(files.key))
    control = open_access(settings, "", {})
    assert control.tls is not None
    assert control._tls is not None
    await control.check_files()
    first = control._tls._newest
    # 1. Only one file of the pair is there yet.
    certificates.issue("other")
    certificates.write("server.pem", (tmp_path / "other.pem").read_bytes())
    with capture_logs() as logs:
        await control.check_files()
        await control.check_files()
    assert [(line["event"], line["log_level"]) for line in logs] == [("certificate_rejected", "error")]
    assert control._tls._newest is first
    assert control.access.describe()["rejected_files"] == ["tls"]
    # 2. Both are.
    certificates.write("server.key", (tmp_path / "other.key").read_bytes())
    with capture_logs() as logs:
        await control.check_files()
    assert [line["event"] for line in logs] == ["certificate_changed"]
    assert control._tls._newest == load_tls(files)
    assert control.access.describe()["rejected_files"] == []


async def test_only_other_client_cas_end_the_connections_of_before(tmp_path: Path) -> None:
    certificates = CertificateFolder(tmp_path)
    files = certificates.issue("server")
    settings = AccessSection(
        tls_certificate=str(files.certificate), tls_key=str(files.key), tls_client_ca=str(tmp_path / "ca.pem")
    )
    control = open_access(settings, "", {})
    ends: list[str] = []
    control.on_client_ca_changed = lambda: ends.append("ended")
    certificates.issue("server")
    await control.check_files()
    assert ends == []
    certificates.write("ca.pem", trustme.CA().cert_pem.bytes())
    await control.check_files()
    await control.check_files()
    assert ends == ["ended"]


# ---------------------------------------------------------------- start
async def test_without_files_the_list_is_open_and_nothing_is_checked() -> None:
    control = open_access(AccessSection(), "", {})
    assert (control.access.is_open, control.tls) == (True, None)
    await control.check_files(is_requested=True)
    await control.revoke_expired()


@pytest.mark.parametrize("setting", ["tokens_file", "tls_certificate", "tls_key", "tls_client_ca"])
def test_a_start_with_a_missing_file_is_refused(tmp_path: Path, setting: str) -> None:
    files = CertificateFolder(tmp_path).issue("server")
    given: dict[str, Any] = {
        "tls_certificate": str(files.certificate),
        "tls_key": str(files.key),
        setting: str(tmp_path / "missing"),
    }
    with pytest.raises(ConfigError, match=r"missing: .* cannot be read: No such file"):
        open_access(AccessSection(**given), "", {})


async def test_no_log_line_has_a_secret(tokens: TokensOnDisk) -> None:
    with capture_logs() as logs:
        control = open_access(AccessSection(tokens_file=str(tokens.path)), "admin-s3cret", {})
        tokens.write(encode_tokens_file([make_record(1), make_record(1)]))
        await control.check_files()
        await tokens.control.check_files()
    shown = f"{logs} {control.access} {control.access.describe()} {tokens.control!r}"
    assert "tokens_rejected" in shown
    for number in (1, 2):
        assert make_token(number) not in shown
        assert make_record(number).sha256 not in shown
    assert "admin-s3cret" not in shown
