"""The records of the tokens file: what each token permits, with its hash. Converts bytes; opens no file.

The file is JSON, `{"version": 1, "tokens": [...]}`, and strict: an unknown field is an error, since a misspelled limit
would not limit anything.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Annotated, Any

import msgspec

from streamd.core.access.scopes import Scope
from streamd.core.access.usage import UsageLimits
from streamd.core.errors import ConfigError, InvalidSelectionError
from streamd.core.selection import ServerGlobs
from streamd.core.state.samples import Time

TOKENS_FILE_VERSION = 1

MAX_TOKENS = 10_000
"""Enough for a token of each server of a large fleet's racks; a bound on what a damaged file can cost."""

TokenName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")]
"""Shown in logs, errors and labels of metrics, so it is short and plain."""

TokenId = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{12})?\Z")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
ServerGlob = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
GrantedGlobs = Annotated[tuple[ServerGlob, ...], msgspec.Meta(min_length=1)]
PositiveCount = Annotated[int, msgspec.Meta(ge=1)]

_TOKEN = re.compile(r"streamd_([0-9a-f]{12})_[0-9a-f]{64}")


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One token, recognized by the hash of its secret or by the name in a client certificate.

    `repr` hides the hash: it does not reveal the token, but logs have no use for it.
    """

    name: TokenName
    id: TokenId = ""
    """The public part of the token, by which its record is found; empty for a certificate."""

    sha256: Sha256 = ""
    certificate: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """The common name of the subject, or a DNS name, of the client certificate that stands for the token."""

    scopes: Annotated[dict[Scope, GrantedGlobs], msgspec.Meta(min_length=1)]
    rows_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_sockets: PositiveCount | None = None
    max_servers: PositiveCount | None = None
    created: Time | None = None
    expires: Time | None = None

    def __post_init__(self) -> None:
        has_secret = bool(self.id or self.sha256)
        if has_secret and not (self.id and self.sha256):
            raise ValueError("one of `id` and `sha256` is missing, expected both")
        if has_secret == bool(self.certificate):
            raise ValueError("expected either `id` and `sha256`, or `certificate`")

    def __repr__(self) -> str:
        scopes = {str(scope): list(globs) for scope, globs in self.scopes.items()}
        return f"<TokenRecord {self.name!r} scopes={scopes}>"

    @property
    def key(self) -> str:
        """The identity of the record in its file: the id of the token, or the name in the certificate."""
        return self.id or f"certificate {self.certificate}"

    @property
    def limits(self) -> UsageLimits:
        """The limits of the token's callers."""
        return UsageLimits(self.rows_per_second, self.max_sockets, self.max_servers)

    @property
    def expires_at(self) -> float:
        """Epoch seconds from which on the token is refused; infinity if it does not expire."""
        return inf if self.expires is None else _to_epoch_seconds(self.expires)


def parse_tokens_file(data: bytes, place: str) -> tuple[TokenRecord, ...]:
    """Return the records of a tokens file.

    Raises `ConfigError` naming `place`, the token and the field; the message repeats no hash.
    """
    try:
        content = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ConfigError(f"{place}: is not JSON: {exc}") from exc
    records = tuple(_parse_record(each, place, index) for index, each in enumerate(_find_tokens(content, place)))
    _require_unique(place, "name", (record.name for record in records))
    _require_unique(place, "id", (record.id for record in records if record.id))
    _require_unique(place, "certificate", (record.certificate for record in records if record.certificate))
    return records


def encode_tokens_file(records: Sequence[TokenRecord]) -> bytes:
    """Return the bytes of a tokens file, indented for the people who read it."""
    content = {"version": TOKENS_FILE_VERSION, "tokens": list(records)}
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def format_token(token_id: str, secret: str) -> str:
    """Return a token of its public id (12 hexadecimal digits) and its secret (64 of them, at random)."""
    token = f"streamd_{token_id}_{secret}"
    assert _TOKEN.fullmatch(token), "the parts have their lengths"
    return token


def find_token_id(token: str) -> str | None:
    """Return the public id in a token, or `None` if the text does not have the form of a token."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match else None


def hash_token(token: str) -> bytes:
    """Return the SHA-256 of a token.

    A slow hash, as passwords need, would add nothing: the secret has 256 random bits, so it cannot be guessed from its
    hash. And it would cost: each request is hashed, also those of callers without a valid token.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _find_tokens(content: Any, place: str) -> Sequence[Any]:
    if not isinstance(content, Mapping) or set(content) != {"version", "tokens"}:
        raise ConfigError(f'{place}: expected an object with "version" and "tokens" and nothing else')
    version, tokens = content["version"], content["tokens"]
    if type(version) is not int or version != TOKENS_FILE_VERSION:
        raise ConfigError(f"{place}: version is {version!r:.40}, expected {TOKENS_FILE_VERSION}")
    if not isinstance(tokens, list):
        raise ConfigError(f"{place}: tokens is not a list")
    if len(tokens) > MAX_TOKENS:
        raise ConfigError(f"{place}: has {len(tokens)} tokens, expected at most {MAX_TOKENS}")
    return tokens


def _parse_record(given: Any, place: str, index: int) -> TokenRecord:
    name = given.get("name") if isinstance(given, Mapping) else None
    token = f"token {index}" if not isinstance(name, str) else f"token {name[:64]!r}"
    try:
        record = msgspec.convert(given, TokenRecord)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{place}: {token}: {exc}") from exc
    for scope, globs in record.scopes.items():
        try:
            ServerGlobs(globs)
        except InvalidSelectionError as exc:
            raise ConfigError(f"{place}: {token}: scopes.{scope}: {exc}") from exc
    return record


def _require_unique(place: str, field: str, values: Iterable[str]) -> None:
    repeated = next((value for value, count in Counter(values).items() if count > 1), None)
    if repeated is not None:
        raise ConfigError(f"{place}: the {field} {repeated!r} occurs twice, expected each once")


def _to_epoch_seconds(time: Time) -> float:
    return time if isinstance(time, float) else time.timestamp()
