"""Tests `streamd/core/access/records.py`: the tokens file is read strictly, and written so that it reads the same."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.core.access.records import (
    TokenRecord,
    encode_tokens_file,
    find_token_id,
    format_token,
    hash_token,
    parse_tokens_file,
)
from streamd.core.access.scopes import Scope
from streamd.core.errors import ConfigError

HASH = "ab" * 32

TOKEN: dict[str, Any] = {
    "name": "agents",
    "id": "0123456789ab",
    "sha256": HASH,
    "scopes": {"ingest": ["web-*"], "read": ["*"]},
}


def parse(*tokens: Any, version: Any = 1) -> tuple[TokenRecord, ...]:
    return parse_tokens_file(json.dumps({"version": version, "tokens": tokens}).encode(), "/etc/tokens")


LIMITS: dict[str, st.SearchStrategy[Any]] = {
    "rows_per_second": st.none() | st.floats(0.001, 1e6),
    "max_sockets": st.none() | st.integers(1, 100),
    "max_servers": st.none() | st.integers(1, 100),
    "created": st.none() | st.floats(0, 1e10),
    "expires": st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
}
SCOPES = st.dictionaries(
    st.sampled_from(Scope), st.lists(st.text("ab-*", min_size=1, max_size=5), min_size=1, max_size=3), min_size=1
)


@settings(max_examples=30)
@given(names=st.sets(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,8}", fullmatch=True), max_size=4), data=st.data())
def test_records_read_as_they_were_written(names: set[str], data: st.DataObject) -> None:
    records = []
    for index, name in enumerate(sorted(names)):
        fields: dict[str, Any] = {field: data.draw(values) for field, values in LIMITS.items()}
        fields |= {"certificate": name} if index % 2 else {"id": f"{index:012x}", "sha256": HASH}
        scopes = {scope: tuple(globs) for scope, globs in data.draw(SCOPES).items()}
        records.append(TokenRecord(name=name, scopes=scopes, **fields))
    assert parse_tokens_file(encode_tokens_file(records), "x") == tuple(records)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scopes": {"write": ["*"]}}, "Invalid enum value 'write'"),
        ({"scopes": {}}, r"length >= 1 - at `\$.scopes`"),
        ({"scopes": {"read": []}}, r"length >= 1 - at `\$.scopes"),
        ({"scopes": {"read": [""]}}, r"length >= 1 - at `\$.scopes"),
        ({"scopes": {"read": "web-*"}}, "Expected `array`"),
        ({"scopes": {"read": ["x" * 257]}}, "length <= 256"),
        ({"sha256": "AB" * 32}, r"\$.sha256"),
        ({"sha256": HASH + "\n"}, r"\$.sha256"),
        ({"sha256": ""}, "`id` and `sha256` is missing"),
        ({"id": "0123"}, r"\$.id"),
        ({"id": "", "sha256": ""}, "expected either `id` and `sha256`, or `certificate`"),
        ({"certificate": "agent.example"}, "expected either"),
        ({"name": "a b"}, r"\$.name"),
        ({"name": "agents\n"}, r"\$.name"),
        ({"rows_per_second": 0}, r"\$.rows_per_second"),
        ({"max_sockets": 0}, r"\$.max_sockets"),
        ({"max_servers": 1.5}, r"\$.max_servers"),
        ({"expires": "2030-01-01T00:00:00"}, r"\$.expires"),
        ({"expires": "tomorrow"}, r"\$.expires"),
        ({"max_socket": 1}, "unknown field `max_socket`"),
    ],
)
def test_a_wrong_field_is_named_with_its_token_and_file(change: dict[str, Any], reason: str) -> None:
    given_name = change.get("name", "agents")
    with pytest.raises(ConfigError, match=reason) as caught:
        parse({**TOKEN, **change})
    assert str(caught.value).startswith(f"/etc/tokens: token {given_name!r}: ")
    assert HASH not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "expected an object"),
        (b'{"version": 1}', "expected an object"),
        (b'{"version": 1, "tokens": [], "x": 1}', "expected an object"),
        (b'{"version": 2, "tokens": []}', "version is 2, expected 1"),
        (b'{"version": true, "tokens": []}', "version is True, expected 1"),
        (b'{"version": 1, "tokens": {}}', "tokens is not a list"),
        (b'{"version": 1, "tokens": [1]}', "token 0: "),
    ],
)
def test_a_file_of_another_form_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^/etc/tokens: {reason}"):
        parse_tokens_file(data, "/etc/tokens")


@pytest.mark.parametrize("field", ["name", "id", "certificate"])
def test_what_names_a_token_occurs_once(field: str) -> None:
    tokens = [{**TOKEN, "name": f"agents-{index}", "id": f"{index:012x}"} for index in range(2)]
    if field == "certificate":
        tokens = [{"name": each["name"], "certificate": f"{each['id']}", "scopes": each["scopes"]} for each in tokens]
    parse(*tokens)
    tokens[1][field] = tokens[0][field]
    with pytest.raises(ConfigError, match=f"the {field} .* occurs twice"):
        parse(*tokens)


def test_too_many_tokens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamd.core.access.records.MAX_TOKENS", 1)
    with pytest.raises(ConfigError, match="has 2 tokens, expected at most 1"):
        parse(TOKEN, TOKEN)


def test_a_token_has_its_id_in_it_and_no_other_text_is_one() -> None:
    token = format_token("0123456789ab", "cd" * 32)
    assert find_token_id(token) == "0123456789ab"
    for other in ("", "x", token[:-1], token + "0", token.upper(), token + "\n", "é" + token, "\udcff"):
        assert find_token_id(other) is None
        assert hash_token(other) != hash_token(token)


def test_the_hash_is_not_shown() -> None:
    record = parse(TOKEN)[0]
    assert HASH not in repr(record)
    assert HASH not in str([record])
    assert "agents" in repr(record)
