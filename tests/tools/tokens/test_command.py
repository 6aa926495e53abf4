"""Tests `streamd/tools/tokens/command.py`: tokens are created, listed and revoked as the daemon reads them."""

import json
from pathlib import Path

import pytest

from streamd.cli import main
from streamd.core.access.access_list import AccessList
from streamd.core.access.records import TokenRecord
from streamd.core.access.scopes import Scope
from streamd.core.errors import UnauthorizedError
from streamd.server.access.tokens_file import TokensFile


@pytest.fixture(autouse=True)
def _without_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMD_TOKENS_FILE", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def read_records(path: Path) -> tuple[TokenRecord, ...]:
    """Read the file as the daemon does, which checks its mode and owner too."""
    return TokensFile(path).read()


def create(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Create a token and return it."""
    assert main(["token", "create", *arguments, "--file", str(path)]) == 0
    return capsys.readouterr().out.strip()


# ---------------------------------------------------------------- create
def test_a_created_token_has_the_rights_that_were_given(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scopes = ("--scope", "ingest=web-*", "--scope", "ingest=db[1]", "--scope", "read")
    limits = ("--rows-per-second", "12.5", "--max-sockets", "3", "--max-servers", "40", "--expires", "2100-01-31")
    token = create(path, capsys, "agents", *scopes, *limits)
    caller = AccessList(read_records(path)).identify(token, (), 0.0)
    assert caller.name == "agents"
    assert [caller.may(Scope.INGEST, server) for server in ("web-1", "db[1]", "db-1")] == [True, True, False]
    assert caller.covers_all(Scope.READ)
    assert not any(caller.has(scope) for scope in (Scope.SUBSCRIBE, Scope.PREDICT, Scope.ADMIN))
    limits_read = caller.usage.limits
    assert (limits_read.rows_per_second, limits_read.max_sockets, limits_read.max_servers) == (12.5, 3, 40)
    assert caller.expires_at == 4_105_123_199.0  # 2100-01-31T23:59:59Z


def test_the_file_is_private_and_has_no_secret(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = [create(path, capsys, name, "--scope", "read") for name in ("a", "b")]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    secrets = [token.rpartition("_")[2] for token in tokens]
    assert len({*tokens, *secrets}) == 4
    assert not any(secret in path.read_text() for secret in secrets)


def test_only_the_token_is_on_standard_output(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "create", "a", "--scope", "read", "--file", str(path)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("streamd_")
    assert shown.out.count("\n") == 1
    assert "Authorization: Bearer" in shown.err
    assert shown.out.strip() not in shown.err


def test_a_certificate_stands_for_a_token(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(path, capsys, "agent", "--scope", "ingest", "--certificate", "agent.example") == ""
    access = AccessList(read_records(path))
    assert access.identify(None, ("agent.example",), 0.0).covers_all(Scope.INGEST)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["x y", "--scope", "read"], "$.name"),
        (["x", "--scope", "write"], "the scope 'write' is unknown, expected one of ingest"),
        (["x", "--scope", "read="], "has no glob after the ="),
        (["x", "--scope", "read", "--max-sockets", "0"], "$.max_sockets"),
        (["x", "--scope", "read", "--rows-per-second", "-1"], "$.rows_per_second"),
        (["x", "--scope", "read", "--expires", "2001-01-01"], "has passed"),
        (["x", "--scope", "read", "--expires", "2100-01-01T00:00:00"], "has no offset"),
        (["x", "--scope", "read", "--expires", "next year"], "--expires next year: "),
        (["taken", "--scope", "read"], "has a token 'taken' already"),
    ],
)
def test_a_wrong_token_is_refused_and_the_file_stays(
    path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    create(path, capsys, "taken", "--scope", "read")
    before = path.read_bytes()
    assert main(["token", "create", *arguments, "--file", str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("streamd token create: ")
    assert reason in shown.err
    assert path.read_bytes() == before


@pytest.mark.parametrize("rate", ["nan", "inf", "x"])
def test_a_rate_is_a_finite_number(path: Path, rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["token", "create", "x", "--scope", "read", "--rows-per-second", rate, "--file", str(path)])
    assert caught.value.code == 2
    assert f"{rate!r} is not a finite number" in capsys.readouterr().err
    assert not path.exists()


# ---------------------------------------------------------------- list
def test_the_list_shows_the_rights_and_no_hash(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(path, capsys, "a", "--scope", "ingest=web-*", "--max-servers", "7", "--expires", "2100-01-31")
    create(path, capsys, "c", "--scope", "read", "--certificate", "agent.example")
    hashes = [record.sha256 for record in read_records(path) if record.sha256]
    assert main(["token", "list", "--file", str(path)]) == 0
    table = capsys.readouterr().out
    for shown in ("ingest: web-*", "7 servers", "2100-01-31 23:59Z", "certificate agent.example", "read: *"):
        assert shown in table
    assert main(["token", "list", "--json", "--file", str(path)]) == 0
    text = capsys.readouterr().out
    listed = json.loads(text)
    assert [(each["name"], each["scopes"]) for each in listed] == [("a", {"ingest": ["web-*"]}), ("c", {"read": ["*"]})]
    assert not any(value in table + text for value in hashes)


def test_an_expired_token_is_marked(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(path, capsys, "a", "--scope", "read", "--expires", "2100-01-31")
    path.write_text(path.read_text().replace("2100", "2001"))
    assert main(["token", "list", "--file", str(path)]) == 0
    assert "2001-01-31 23:59Z (expired)" in capsys.readouterr().out


# ---------------------------------------------------------------- revoke
def test_a_revoked_token_is_gone_and_the_others_stay(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone, kept = (create(path, capsys, name, "--scope", "read") for name in ("a", "b"))
    assert main(["token", "revoke", "a", "--file", str(path)]) == 0
    access = AccessList(read_records(path))
    assert access.identify(kept, (), 0.0).name == "b"
    with pytest.raises(UnauthorizedError):
        access.identify(gone, (), 0.0)


def test_an_unknown_name_is_no_success(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(path, capsys, "a", "--scope", "read")
    before = path.read_bytes()
    assert main(["token", "revoke", "b", "--file", str(path)]) == 1
    assert "has no token 'b'" in capsys.readouterr().err
    assert path.read_bytes() == before


# ---------------------------------------------------------------- the file
def test_the_settings_name_the_file_and_the_variable_beats_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[access]\ntokens_file = "t.json"\n')
    create_one = ["token", "create", "a", "--scope", "read", "--config", str(config)]
    assert main(create_one) == 0
    monkeypatch.setenv("STREAMD_TOKENS_FILE", str(tmp_path / "v.json"))
    assert main(create_one) == 0
    assert (tmp_path / "t.json").exists()
    assert (tmp_path / "v.json").exists()


@pytest.mark.parametrize("text", ["", "[access]\n", '[access]\ntokens_file = ""\n', "access = 1\n", "[", "\udcff"])
def test_settings_without_the_file_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    config = tmp_path / "config.toml"
    config.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["token", "list", "--config", str(config)]) == 2
    assert f"streamd token list: {config}: " in capsys.readouterr().err
    assert main(["token", "list"]) == 2
    assert "give --file or --config" in capsys.readouterr().err


def test_a_missing_or_wrong_file_is_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in (["list"], ["revoke", "a"]):
        assert main(["token", *action, "--file", str(path)]) == 1
        assert f"{path}: cannot be read: No such file" in capsys.readouterr().err
    path.write_text("{}")
    for action in (["list"], ["revoke", "a"], ["create", "a", "--scope", "read"]):
        assert main(["token", *action, "--file", str(path)]) == 2
        assert f"{path}: expected an object" in capsys.readouterr().err
    assert path.read_text() == "{}"
