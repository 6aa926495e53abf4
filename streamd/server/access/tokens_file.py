"""Finds and reads the tokens file: the one of the settings, or the credential `tokens` of systemd."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamd.core.access.records import TokenRecord, parse_tokens_file
from streamd.server.access.guarded_files import read_guarded

TOKENS_CREDENTIAL = "tokens"
"""The name of the credential: `LoadCredential=tokens:/etc/streamd/tokens.json` in the unit."""


@dataclass(frozen=True)
class TokensFile:
    """The place of the tokens."""

    path: Path
    is_credential: bool = False

    def read(self) -> tuple[TokenRecord, ...]:
        """Return the records. Raises `ConfigError` naming the file, and the token and the field if one is wrong."""
        content = read_guarded(self.path, "the tokens file", is_credential=self.is_credential)
        return parse_tokens_file(content, str(self.path))


def find_tokens_file(setting: str, environ: Mapping[str, str] = os.environ) -> TokensFile | None:
    """Return the file that `tokens_file` names, or else the credential of systemd if there is one.

    A file that is named need not exist: reading it then fails, since a daemon that misses its tokens must not start
    as one that has none.
    """
    if setting:
        return TokensFile(Path(setting))
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder and os.path.lexists(credential := Path(folder) / TOKENS_CREDENTIAL):
        return TokensFile(credential, is_credential=True)
    return None
