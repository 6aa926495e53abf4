"""Tests `streamd/tools/daemon_token.py`: where the token of a command comes from."""

from pathlib import Path

import pytest

from streamd.core.errors import ConfigError
from streamd.tools.daemon_token import make_token_headers, read_token


def test_the_token_comes_from_the_variable_or_a_file(tmp_path: Path) -> None:
    assert read_token(None, {}) == ""
    assert read_token(None, {"STREAMD_TOKEN": " abc\n"}) == "abc"
    (tmp_path / "token").write_text("from-file\n")
    assert read_token(tmp_path / "token", {"STREAMD_TOKEN": "abc"}) == "from-file"
    for content in (b"", b"two words", b"\xff"):
        (tmp_path / "token").write_bytes(content)
        with pytest.raises(ConfigError):
            read_token(tmp_path / "token", {})
    with pytest.raises(ConfigError, match="No such file"):
        read_token(tmp_path / "missing", {})


def test_a_token_is_sent_in_a_header() -> None:
    assert make_token_headers("abc") == {"Authorization": "Bearer abc"}
    assert make_token_headers("") == {}
