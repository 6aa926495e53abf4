"""Tokens for tests, and the access list that knows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamd.core.access.access_list import AccessList
from streamd.core.access.records import TokenRecord, format_token, hash_token
from streamd.core.access.scopes import Scope

ALL = ("*",)


@dataclass(frozen=True)
class TestToken:
    """A token with its record."""

    __test__ = False  # it is no test, whatever its name is

    token: str
    record: TokenRecord

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request that presents the token."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def secret(self) -> str:
        """The part of the token that nobody else may see."""
        return self.token.rpartition("_")[2]


def make_test_token(name: str, scopes: Mapping[Scope, Sequence[str]], **limits: Any) -> TestToken:
    """Make a token of this name; the same name gives the same token."""
    identifier = hash_token(name).hex()
    token = format_token(identifier[:12], hash_token(f"secret of {name}").hex())
    granted = {scope: tuple(globs) for scope, globs in scopes.items()}
    record = TokenRecord(name=name, id=identifier[:12], sha256=hash_token(token).hex(), scopes=granted, **limits)
    return TestToken(token, record)


def grant_all(globs: Sequence[str] = ALL) -> dict[Scope, Sequence[str]]:
    """Return every scope, for these servers."""
    return {scope: tuple(globs) for scope in Scope}


def make_access_list(*tokens: TestToken) -> AccessList:
    """Return a list of these tokens."""
    return AccessList([each.record for each in tokens])
