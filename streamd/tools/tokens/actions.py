"""The actions of `streamd token`: each finds the tokens file, and reads or changes it."""

import argparse
import json
import os
import secrets
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from streamd.core.access.records import TokenRecord, format_token, hash_token
from streamd.core.access.scopes import Scope
from streamd.core.errors import ConfigError
from streamd.regular_files import read_regular
from streamd.tools.engine.text_table import align_columns
from streamd.tools.tokens.errors import TokenCommandError
from streamd.tools.tokens.store import Records, TokenStore

ID_BYTES, SECRET_BYTES = 6, 32

PLACE_VARIABLE = "STREAMD_TOKENS_FILE"
"""The daemon's variable for the setting `tokens_file`; as there, it beats the file of settings."""


def run_token_action(args: argparse.Namespace) -> None:
    """Run the action that the arguments name. Raises `ConfigError` and `TokenCommandError`."""
    store = TokenStore(find_store_path(args.file, args.config))
    if args.action == "create":
        _create(store, args)
    elif args.action == "list":
        _list(store, is_json=args.json)
    else:
        _revoke(store, args.name)


def find_store_path(file: Path | None, config: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the tokens file: the given one, the one of the variable, or the one that the settings name.

    Raises `ConfigError` if none of them names a file.
    """
    if file is not None:
        return file
    if variable := environ.get(PLACE_VARIABLE):
        return Path(variable)
    if config is None:
        raise ConfigError(f"no tokens file is named: give --file or --config, or set {PLACE_VARIABLE}")
    try:
        settings = tomllib.loads(read_regular(config).decode())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{config}: cannot be read: {exc}") from exc
    access = settings.get("access")
    named = access.get("tokens_file") if isinstance(access, dict) else None
    if not isinstance(named, str) or not named:
        raise ConfigError(f"{config}: [access] tokens_file names no file; set it, or give --file")
    return config.parent / named


# ---------------------------------------------------------------- create
def _create(store: TokenStore, args: argparse.Namespace) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    token = None
    identity: dict[str, Any] = {"certificate": args.certificate}
    if args.certificate is None:
        token_id = secrets.token_hex(ID_BYTES)
        token = format_token(token_id, secrets.token_hex(SECRET_BYTES))
        identity = {"id": token_id, "sha256": hash_token(token).hex()}
    record = _make_record(
        {
            "name": args.name,
            **identity,
            "scopes": parse_scopes(args.scope),
            "rows_per_second": args.rows_per_second,
            "max_sockets": args.max_sockets,
            "max_servers": args.max_servers,
            "created": now,
            "expires": parse_expiry(args.expires, now),
        }
    )

    def add(records: Records) -> Records:
        if any(each.name == record.name for each in records):
            raise ConfigError(f"{store.path}: has a token {record.name!r} already; revoke it, or take another name")
        return [*records, record]

    store.edit(add, may_create=True)
    _explain(f"token {record.name!r} ({describe_scopes(record)}) is in {store.path}")
    if token is None:
        _explain(f"callers with a client certificate for {record.certificate} now have these rights")
        return
    _explain("it is not shown again; callers send it as: Authorization: Bearer TOKEN")
    print(token)


def _make_record(fields: dict[str, Any]) -> TokenRecord:
    try:
        return msgspec.convert(fields, TokenRecord)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"the token cannot be made: {exc}") from exc


def parse_scopes(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the globs of each scope, of texts such as `ingest=web-*`; raises `ConfigError` for an unknown scope."""
    scopes: dict[str, list[str]] = {}
    for text in texts:
        scope, equals, glob = text.partition("=")
        if scope not in list(Scope):
            raise ConfigError(f"--scope {text}: the scope {scope!r} is unknown, expected one of {', '.join(Scope)}")
        if equals and not glob:
            raise ConfigError(f"--scope {text}: has no glob after the =, expected one such as web-*")
        globs = scopes.setdefault(scope, [])
        if (glob or "*") not in globs:
            globs.append(glob or "*")
    return scopes


def parse_expiry(text: str | None, now: datetime) -> datetime | None:
    """Return the end of a token's validity: the end of a day in UTC, or a time with an offset; `None` for never.

    Raises `ConfigError` if it is neither, or has passed.
    """
    if text is None:
        return None
    try:
        if len(text) == len("2027-12-31"):
            end = datetime.combine(date.fromisoformat(text), datetime.max.time(), UTC).replace(microsecond=0)
        else:
            end = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigError(f"--expires {text}: is no date, expected 2027-12-31 or 2027-12-31T18:00:00Z") from exc
    if end.tzinfo is None:
        raise ConfigError(f"--expires {text}: has no offset, expected a time such as 2027-12-31T18:00:00Z")
    if end <= now:
        raise ConfigError(f"--expires {text}: has passed")
    return end


# ---------------------------------------------------------------- list and revoke
def _list(store: TokenStore, *, is_json: bool) -> None:
    records = store.read()
    if is_json:
        print(json.dumps([_describe_record(record) for record in records], indent=2))
        return
    rows = list(_format_rows(records, datetime.now(UTC).timestamp()))
    print("\n".join(align_columns(rows)))


def _describe_record(record: TokenRecord) -> dict[str, Any]:
    described: dict[str, Any] = msgspec.to_builtins(record)
    described.pop("sha256", None)
    return described


def _format_rows(records: Records, now: float) -> Iterator[tuple[str, ...]]:
    yield ("NAME", "IDENTITY", "SCOPES", "LIMITS", "CREATED", "EXPIRES")
    for record in records:
        yield (
            record.name,
            record.id or f"certificate {record.certificate}",
            describe_scopes(record),
            _describe_limits(record) or "-",
            _format_time(record.created),
            _format_time(record.expires) + (" (expired)" if record.expires_at <= now else ""),
        )


def describe_scopes(record: TokenRecord) -> str:
    """Return the scopes of a token with their globs, in one line."""
    return "; ".join(f"{scope}: {' '.join(globs)}" for scope, globs in record.scopes.items())


def _describe_limits(record: TokenRecord) -> str:
    limits = {"rows/s": record.rows_per_second, "sockets": record.max_sockets, "servers": record.max_servers}
    return ", ".join(f"{limit:g} {name}" for name, limit in limits.items() if limit is not None)


def _format_time(time: float | datetime | None) -> str:
    if time is None:
        return "-"
    moment = time if isinstance(time, datetime) else datetime.fromtimestamp(time, UTC)
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}Z"


def _revoke(store: TokenStore, name: str) -> None:
    def remove(records: Records) -> Records:
        kept = [record for record in records if record.name != name]
        if len(kept) == len(records):
            raise TokenCommandError(f"{store.path}: has no token {name!r}; `streamd token list` shows those it has")
        return kept

    store.edit(remove)
    _explain(f"token {name!r} is no longer in {store.path}; a daemon that watches this file refuses it within seconds")


def _explain(text: str) -> None:
    """Print for the person at the terminal; standard output is for the token alone, which programs read."""
    print(text, file=sys.stderr)
