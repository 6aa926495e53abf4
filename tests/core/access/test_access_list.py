"""Tests `streamd/core/access/access_list.py`: who presents a token, and which callers a change revokes."""

from contextlib import suppress
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.access.access_list import AccessList
from streamd.core.access.caller import ANYBODY, Caller
from streamd.core.access.records import TokenRecord, format_token, hash_token
from streamd.core.access.scopes import Scope
from streamd.core.errors import UnauthorizedError


def make_token(number: int) -> str:
    return format_token(f"{number:012x}", f"{number:064x}")


def make_record(number: int, **fields: Any) -> TokenRecord:
    given_fields: dict[str, Any] = {
        "id": f"{number:012x}",
        "sha256": hash_token(make_token(number)).hex(),
        "scopes": {Scope.INGEST: ("*",)},
        **fields,
    }
    return TokenRecord(name=f"token-{number}", **given_fields)


def make_certificate_record(name: str, **fields: Any) -> TokenRecord:
    return TokenRecord(name=f"of-{name}", certificate=name, scopes={Scope.READ: ("*",)}, **fields)


# ---------------------------------------------------------------- identification
@settings(max_examples=50)
@given(present=st.sets(st.integers(0, 5)), sent=st.integers(0, 5), flipped=st.none() | st.integers(21, 84))
def test_a_token_is_known_exactly_if_its_record_is_there(present: set[int], sent: int, flipped: int | None) -> None:
    access, token = AccessList([make_record(number) for number in present]), make_token(sent)
    if flipped is not None:  # one digit of the secret is wrong
        token = f"{token[:flipped]}{int(token[flipped], 16) ^ 1:x}{token[flipped + 1 :]}"
    if sent in present and flipped is None:
        assert access.identify(token, (), 0.0).name == f"token-{sent}"
    else:
        with pytest.raises(UnauthorizedError, match="is not known") as caught:
            access.identify(token, (), 0.0)
        assert token not in str(caught.value)


def test_known_and_unknown_tokens_are_compared_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((len(first), len(second)))
        return first == second

    monkeypatch.setattr("streamd.core.access.access_list.hmac.compare_digest", compare)
    access = AccessList([make_record(1)], admin_token="admin")
    seen = []
    for secret in (make_token(1), make_token(2), "admin", "", "Ünicode \udcff"):
        with suppress(UnauthorizedError):
            access.identify(secret, (), 0.0)
        seen.append(tuple(compared))
        compared.clear()
    assert set(seen) == {((32, 32), (32, 32))}


def test_a_client_certificate_stands_for_a_token_unless_a_secret_is_sent() -> None:
    access = AccessList([make_record(1), make_certificate_record("agent.example")])
    assert access.identify(None, ("other", "agent.example"), 0.0).name == "of-agent.example"
    assert access.identify(make_token(1), ("agent.example",), 0.0).name == "token-1"
    with pytest.raises(UnauthorizedError):
        access.identify("wrong", ("agent.example",), 0.0)
    with pytest.raises(UnauthorizedError):
        access.identify(None, ("other", ""), 0.0)


def test_no_secret_is_that_of_a_certificate() -> None:
    access = AccessList([make_certificate_record("agent.example")])
    for secret in ("", "agent.example", "certificate agent.example", "0" * 64):
        with pytest.raises(UnauthorizedError):
            access.identify(secret, (), 0.0)


def test_an_open_list_takes_everybody_and_ignores_unknown_tokens() -> None:
    access = AccessList()
    assert access.is_open
    for secret, names in ((None, ()), (make_token(1), ()), (None, ("agent.example",))):
        assert access.identify(secret, names, 0.0) is ANYBODY


def test_the_admin_token_of_the_settings_is_one_more_token() -> None:
    open_list, closed = AccessList(admin_token="s3cret"), AccessList([], admin_token="s3cret")
    assert {scope for scope in Scope if open_list.identify("s3cret", (), 0.0).covers_all(scope)} == set(Scope)
    assert {scope for scope in Scope if closed.identify("s3cret", (), 0.0).has(scope)} == {Scope.ADMIN}
    with pytest.raises(UnauthorizedError, match="needs a token with the scope admin"):
        open_list.identify(None, (), 0.0).require(Scope.ADMIN)
    with pytest.raises(UnauthorizedError):
        closed.identify(None, (), 0.0)
    assert open_list.identify("s3cres", (), 0.0) is open_list.anonymous
    with pytest.raises(UnauthorizedError, match="is not known"):
        closed.identify("s3cres", (), 0.0)
    for access in (open_list, closed):
        assert "s3cret" not in repr(access) + repr(vars(access))


def test_a_list_without_an_admin_token_knows_none() -> None:
    assert [caller.name for caller in AccessList([make_record(1)]).callers] == ["token-1"]
    with pytest.raises(UnauthorizedError):
        AccessList([]).identify("", (), 0.0)


# ---------------------------------------------------------------- expiry
def test_a_token_is_refused_from_its_expiry_on() -> None:
    access = AccessList([make_record(1, expires=100.0), make_record(2)])
    caller = access.identify(make_token(1), (), 99.9)
    assert access.revoke_expired(99.9) == []
    with pytest.raises(UnauthorizedError, match="token 'token-1' has expired"):
        access.identify(make_token(1), (), 100.0)
    assert access.revoke_expired(100.0) == [caller]
    assert caller.is_revoked
    assert access.revoke_expired(101.0) == []
    with pytest.raises(UnauthorizedError):
        access.identify(make_token(1), (), 50.0)  # a clock that steps back revives nothing
    assert access.identify(make_token(2), (), 1e12).expires_at == inf


# ---------------------------------------------------------------- replacement
Chosen = dict[int, int]
"""The limit on sockets of each token that is in the file."""

FILES = st.lists(st.dictionaries(st.integers(0, 4), st.integers(1, 2), max_size=5), min_size=1, max_size=6)


@settings(max_examples=50)
@given(files=FILES)
def test_a_replacement_revokes_exactly_the_callers_that_are_gone_or_changed(files: list[Chosen]) -> None:
    access, before, callers = AccessList([]), Chosen(), dict[int, Caller]()
    for chosen in files:
        revoked = access.replace([make_record(number, max_sockets=limit) for number, limit in chosen.items()])
        lost = {number for number, limit in before.items() if chosen.get(number) != limit}
        assert set(map(id, revoked)) == {id(callers[number]) for number in lost}
        assert all(caller.is_revoked and not caller.has(Scope.INGEST) for caller in revoked)
        for number, limit in chosen.items():
            caller = access.identify(make_token(number), (), 0.0)
            assert not caller.is_revoked
            assert caller.usage.limits.max_sockets == limit
            assert number in lost or number not in before or caller is callers[number]
            callers[number] = caller
        before = chosen
        assert len(access) == len(chosen)
        assert not access.is_open


def test_a_forgotten_server_frees_its_place_with_each_caller() -> None:
    access = AccessList([make_record(1, max_servers=1), make_record(2, max_servers=1)])
    callers = list(access.callers)
    for caller in callers:
        caller.usage.add_server("web-1")
    access.forget_server("web-1")
    assert [caller.usage.servers for caller in callers] == [0, 0]
