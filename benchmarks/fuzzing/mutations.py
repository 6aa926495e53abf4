"""Mutations of bodies: of bytes, and of the structure of JSON, protobuf and lines. Each is made by a given `Random`."""

import json
import re
from collections.abc import Callable, Sequence
from enum import Enum
from random import Random
from typing import Any

from benchmarks.fuzzing.wire import mutate_message

MAX_BODY_BYTES = 2**20
"""A longer body is cut off."""

_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")

_NUMBERS = (
    *(b"0 -0 -1 1e308 1e309 -1e400 9223372036854775807 9223372036854775808 18446744073709551616 1e-400".split()),
    *(b"NaN Infinity -inf null true 1i 1u -1i 1_0 0x10 1.".split()),
    b"9" * 30,
    b"9" * 5_000,
    b"0." + b"1" * 500,
)

_TOKENS = (
    *(b'\x00 \xff \xed\xa0\x80 \\ " \n \r\n , = { } [ ] : # @ % \t'.split(b" ")),
    b" ",
    b"\\u0000",
    b"\\ud800",
    b'"@pcp"',
    b'"chart_id"',
    b"__name__",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
)

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, -0.0, 1e308, 2**63, 2**64, 10**400, float("nan"), float("inf"), float("-inf")),
    *("", "a", "1", "NaN", "a" * 1_024, "é" * 600, "\x00", "\ud800", "x" * 70_000, "9" * 5_000),
    *([], {}, [[]], {"": {}}, [None], {"a": 1}),
)


class BodyShape(Enum):
    """The structure of a target's bodies."""

    BYTES = "bytes"
    JSON = "json"
    PROTOBUF = "protobuf"
    LINES = "lines"


def mutate_body(corpus: Sequence[bytes], shape: BodyShape, random: Random) -> bytes:
    """Return a mutation of one of these bodies."""
    body = random.choice(corpus)
    for _ in range(random.choice((1, 1, 2, 3, 5))):
        if shape in _BY_SHAPE and random.random() < 0.6:
            body = _BY_SHAPE[shape](body, random)
        else:
            body = random.choice(_ANY)(body, corpus, random)
    return body[:MAX_BODY_BYTES]


# ---------------------------------------------------------------- bytes
_Bytes = Callable[[bytes, Sequence[bytes], Random], bytes]


def _choose_range(body: bytes, random: Random) -> tuple[int, int]:
    begin = random.randint(0, len(body))
    return begin, min(begin + random.choice((1, 2, 8, 40, 500)), len(body))


def _flip_bit(body: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    if not body:
        return body
    changed = bytearray(body)
    changed[random.randrange(len(body))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _insert(body: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    at = random.randint(0, len(body))
    added = random.choice(_TOKENS) if random.random() < 0.7 else random.randbytes(random.randint(1, 12))
    return body[:at] + added + body[at:]


def _delete(body: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    begin, end = _choose_range(body, random)
    return body[:begin] + body[end:]


def _repeat(body: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    begin, end = _choose_range(body, random)
    return body[:end] + body[begin:end] * random.choice((1, 1, 2, 2, 10, 10, 100, 2_000)) + body[end:]


def _truncate(body: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    return body[: random.randint(0, len(body))]


def _splice(body: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    other = random.choice(corpus)
    return body[: random.randint(0, len(body))] + other[random.randint(0, len(other)) :]


def _replace_number(body: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    found = [match.span() for match in _NUMBER.finditer(body[:100_000])]
    if not found:
        return body
    begin, end = random.choice(found)
    return body[:begin] + random.choice(_NUMBERS) + body[end:]


_ANY: tuple[_Bytes, ...] = (_flip_bit, _insert, _delete, _repeat, _truncate, _splice, _replace_number, _replace_number)


# ---------------------------------------------------------------- JSON
def mutate_json(body: bytes, random: Random) -> bytes:
    """Change some values, keys and items of a JSON text; bytes that are no JSON stay as they are."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body
    for _ in range(random.randint(1, 3)):
        value = _mutate_value(value, random)
    if not _is_writable(value):
        return body
    try:
        text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    except (ValueError, RecursionError):
        return body
    if random.random() < 0.02:
        depth = random.choice((50, 900, 5_000, 100_000))
        text = text.replace("1", "[" * depth + "]" * depth, 1)
    return text.encode("utf-8", "surrogatepass")


def _is_writable(value: Any) -> bool:
    """Whether a value is not too long as text; parts of it that are the same object are written each time."""
    left, size = [value], 0
    while left and size < 2 * MAX_BODY_BYTES:
        part = left.pop()
        if isinstance(part, dict):
            left += part.values()
            size += sum(len(key) for key in part)
        elif isinstance(part, list):
            left += part
        size += len(part) if isinstance(part, str) else 4
    return not left


def _mutate_value(value: Any, random: Random) -> Any:
    """Return a value with one change, somewhere in it."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.05:
        return random.choice(_VALUES)
    if isinstance(value, dict):
        return _mutate_object(value, random)
    place = random.randrange(len(value))
    action = random.random()
    if action < 0.6:
        return [*value[:place], _mutate_value(value[place], random), *value[place + 1 :]]
    if action < 0.75:
        return value[:place] + value[place + 1 :]
    if action < 0.9:
        return [*value, *([value[place]] * random.choice((1, 2, 10, 10, 100, 1_500)))][:5_000]
    return random.sample(value, len(value))


def _mutate_object(value: dict[str, Any], random: Random) -> dict[str, Any]:
    key = random.choice(list(value))
    action = random.random()
    if action < 0.75:
        return {**value, key: _mutate_value(value[key], random)}
    if action < 0.85:
        return {name: each for name, each in value.items() if name != key}
    if action < 0.95:
        return {**value, _make_key(key, random): value[key]}
    return {**value, **{f"{key[:50]}{number}": value[key] for number in range(random.choice((3, 70, 1_000)))}}


def _make_key(key: str, random: Random) -> str:
    return random.choice(("", key.upper(), f"{key}.", f"@{key}", "a" * 1_025, "\ud800", key[:-1], "x.y.z", "\x00"))


# ---------------------------------------------------------------- lines
def mutate_lines(body: bytes, random: Random) -> bytes:
    """Change, repeat or move some lines and their parts."""
    lines = body.split(b"\n")
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(lines))
        separator = random.choice((b",", b"=", b" ", b'"', b"\\"))
        parts = lines[place].split(separator)
        action = random.randrange(5)
        if action == 0:
            lines[place:place] = [lines[place]] * random.choice((1, 1, 5, 5, 200))
        elif action == 1:
            random.shuffle(parts)
            lines[place] = separator.join(parts)
        elif action == 2:
            at = random.randrange(len(parts))
            parts[at:at] = [parts[at]] * random.choice((1, 70, 3_000))
            lines[place] = separator.join(parts)[:200_000]
        elif action == 3:
            parts[random.randrange(len(parts))] = random.choice((b"", b"x" * 1_030, b"\xff", *_NUMBERS))
            lines[place] = separator.join(parts)
        else:
            lines.insert(random.randrange(len(lines)), lines[place])
    return b"\n".join(lines)


_BY_SHAPE = {BodyShape.JSON: mutate_json, BodyShape.LINES: mutate_lines, BodyShape.PROTOBUF: mutate_message}
