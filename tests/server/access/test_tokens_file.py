"""Tests `streamd/server/access/tokens_file.py`: where the tokens are, and that a missing file is no empty one."""

from pathlib import Path

import pytest

from streamd.core.access.records import encode_tokens_file
from streamd.core.errors import ConfigError
from streamd.server.access.tokens_file import TokensFile, find_tokens_file


def test_the_setting_beats_the_credential_and_neither_is_none(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert find_tokens_file("", {}) is None
    assert find_tokens_file("", environ) is None, "other credentials only"
    (tmp_path / "tokens").write_bytes(encode_tokens_file([]))
    assert find_tokens_file("", environ) == TokensFile(tmp_path / "tokens", is_credential=True)
    assert find_tokens_file("/x", environ) == TokensFile(Path("/x"))


def test_a_credential_whose_target_is_missing_is_one(tmp_path: Path) -> None:
    (tmp_path / "tokens").symlink_to("missing")
    found = find_tokens_file("", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert found is not None
    with pytest.raises(ConfigError, match="tokens: the tokens file cannot be read: No such file"):
        found.read()


def test_a_credential_may_have_any_mode(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(encode_tokens_file([]))
    path.chmod(0o666)
    assert TokensFile(path, is_credential=True).read() == ()
    with pytest.raises(ConfigError, match="may be written by others"):
        TokensFile(path).read()
