"""Tests `streamd/core/access/caller.py`: which scopes and servers a caller has."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.access import caller as module
from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.scopes import Scope
from streamd.core.errors import ForbiddenError, UnauthorizedError
from streamd.core.selection import ServerGlobs

NAMES = st.text(st.sampled_from("ab-*[]1"), min_size=1, max_size=6)
GLOBS = st.lists(NAMES, min_size=1, max_size=4)


@settings(max_examples=50)
@given(scopes=st.dictionaries(st.sampled_from(Scope), GLOBS), servers=st.lists(NAMES, max_size=12))
def test_a_server_is_permitted_if_the_scope_has_a_glob_for_it(
    scopes: dict[Scope, list[str]], servers: list[str]
) -> None:
    caller = Caller("agents", scopes)
    for scope in Scope:
        globs = scopes.get(scope, [])
        for server in [*servers, *servers]:  # the second time from memory
            assert caller.may(scope, server) == ServerGlobs(globs).matches(server)
        assert caller.has(scope) == bool(globs)
        assert caller.covers_all(scope) == ("*" in globs)


def test_an_exact_name_counts_before_it_is_read_as_a_glob() -> None:
    caller = Caller("agents", {Scope.INGEST: ["db[1]"]})
    assert caller.may(Scope.INGEST, "db[1]")
    assert caller.may(Scope.INGEST, "db1")
    assert not caller.may(Scope.INGEST, "db2")


def test_remembered_decisions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED_NAMES", 8)
    caller = Caller("agents", {Scope.INGEST: ["web-*"]})
    remembered = caller._granted[Scope.INGEST]._remembered
    for number in range(100):
        assert caller.may(Scope.INGEST, f"web-{number}")
        assert not caller.may(Scope.INGEST, f"db-{number}")
        assert not caller.may(Scope.INGEST, "x" * 257 + str(number))
        assert 0 < len(remembered) <= 8


def test_a_missing_scope_and_a_foreign_server_are_named() -> None:
    caller = Caller("agents", {Scope.INGEST: ["web-*"]})
    caller.require_server(Scope.INGEST, "web-1")
    with pytest.raises(ForbiddenError, match="token 'agents' does not have the scope read"):
        caller.require(Scope.READ)
    with pytest.raises(ForbiddenError, match="token 'agents' has the scope ingest, but not for the server 'db-01'"):
        caller.require_server(Scope.INGEST, "db-01")
    with pytest.raises(ForbiddenError) as caught:
        caller.require_server(Scope.INGEST, "d" * 10_000)
    assert len(str(caught.value)) < 400


def test_a_revoked_caller_permits_nothing() -> None:
    caller = Caller("agents", {Scope.INGEST: ["*"], Scope.READ: ["web-*"]})
    assert caller.may(Scope.READ, "web-1")
    caller.revoke()
    assert caller.is_revoked
    assert not caller.has(Scope.INGEST)
    assert not caller.covers_all(Scope.INGEST)
    assert not caller.may(Scope.READ, "web-1")
    for scope in Scope:
        with pytest.raises(UnauthorizedError, match="'agents' was revoked"):
            caller.require_server(scope, "web-1")


def test_anybody_may_do_everything_but_administrate() -> None:
    for scope in set(Scope) - {Scope.ADMIN}:
        ANYBODY.require_server(scope, "db-01")
        assert ANYBODY.covers_all(scope)
    with pytest.raises(ForbiddenError, match="tokens_file"):
        ANYBODY.require(Scope.ADMIN)
    assert ANYBODY.usage.is_unlimited
