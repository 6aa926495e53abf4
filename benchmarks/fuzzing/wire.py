"""Protobuf's wire format for mutations: messages as trees of fields, whatever their types are."""

import struct
from dataclasses import dataclass, field
from random import Random

EXTREME_VARINTS = (0, 1, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
EXTREME_FIXED64 = (
    *(struct.pack("<d", value) for value in (0.0, -0.0, 1e308, -1e308, 5e-324, float("inf"), float("-inf"))),
    struct.pack("<Q", 0x7FF0000000000002),  # Prometheus' stale marker
    struct.pack("<Q", 0x7FF8000000000000),
    b"\xff" * 8,
    b"\x00" * 8,
)


@dataclass
class WireField:
    """One field: its number, its wire type, and its content, which has `children` if it parses as a message."""

    number: int
    wire_type: int
    content: bytes = b""
    children: list["WireField"] = field(default_factory=list)


def encode_varint(number: int) -> bytes:
    """Encode an integer that is not negative."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def encode_field(number: int, content: bytes) -> bytes:
    """Encode a field that is bytes, text or a message."""
    return encode_varint(number << 3 | 2) + encode_varint(len(content)) + content


def parse_fields(data: bytes, depth: int = 0) -> list[WireField] | None:
    """Return the fields of a message, or `None` if this is none."""
    fields, at = list[WireField](), 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        begin = at
        if wire_type == 0:
            _, at = _read_varint(data, at)
        elif wire_type == 2:
            size, begin = _read_varint(data, at)
            at = begin + size
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        if number <= 0 or wire_type not in (0, 1, 2, 5) or not begin <= at <= len(data) or len(fields) > 5_000:
            return None
        content = data[begin:at]
        children = parse_fields(content, depth + 1) if wire_type == 2 and depth < 8 and len(content) > 1 else None
        fields.append(WireField(number, wire_type, content, children or []))
    return fields


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
    return 0, len(data) + 1


def encode_fields(fields: list[WireField], random: Random, lie: float = 0.0) -> bytes:
    """Encode fields again; with the probability `lie` the length of one is wrong."""
    parts = []
    for each in fields:
        content = encode_fields(each.children, random, lie) if each.children else each.content
        size = encode_varint(len(content))
        if each.wire_type == 2 and lie and random.random() < lie:
            size = encode_varint(max(len(content) + random.choice((-1, 1, 5, 100, 2**31, 2**35, 2**63)), 0))
        parts += [encode_varint(each.number << 3 | each.wire_type), size if each.wire_type == 2 else b"", content]
    return b"".join(parts)


def mutate_message(data: bytes, random: Random) -> bytes:
    """Change some fields of a message, at any depth; bytes that are no message stay as they are."""
    fields = parse_fields(data)
    if not fields:
        return data
    for _ in range(random.randint(1, 4)):
        siblings = _choose_siblings(fields, random)
        if siblings:
            _mutate_siblings(siblings, random)
    return encode_fields(fields, random, random.choice((0.0, 0.0, 0.0, 0.01)))


def _choose_siblings(fields: list[WireField], random: Random) -> list[WireField]:
    while True:
        deeper = [each.children for each in fields if each.children]
        if not deeper or random.random() < 0.3:
            return fields
        fields = random.choice(deeper)


def _mutate_siblings(siblings: list[WireField], random: Random) -> None:
    place = random.randrange(len(siblings))
    chosen = siblings[place]
    action = random.randrange(8)
    if action == 0:
        siblings[place:place] = [chosen] * random.choice((1, 2, 10, 70, 300))
    elif action == 1 and len(siblings) > 1:
        del siblings[place]
    elif action == 2:
        random.shuffle(siblings)
    elif action == 3:
        siblings[place] = WireField(random.choice((1, 2, 3, 4, 5, 6, 7, 11, 15, 16, 2**29 - 1)), 2, chosen.content)
    elif action == 4:
        siblings[place] = WireField(chosen.number, 0, encode_varint(random.choice(EXTREME_VARINTS)))
    elif action == 5:
        siblings[place] = WireField(chosen.number, 1, random.choice(EXTREME_FIXED64))
    elif action == 6:
        siblings[place] = WireField(chosen.number, random.choice((2, 2, 3, 4, 5, 6, 7)), _make_text(random))
    else:
        _mutate_content(siblings, place, random)


def _mutate_content(siblings: list[WireField], place: int, random: Random) -> None:
    """Replace a number by an extreme one of its type, or a text by another."""
    chosen = siblings[place]
    if chosen.wire_type == 0:
        siblings[place] = WireField(chosen.number, 0, encode_varint(random.choice(EXTREME_VARINTS)))
    elif chosen.wire_type == 1:
        siblings[place] = WireField(chosen.number, 1, random.choice(EXTREME_FIXED64))
    else:
        siblings[place] = WireField(chosen.number, 2, _make_text(random))


def _make_text(random: Random) -> bytes:
    texts = (
        b"",
        b"\xff",
        b"\xed\xa0\x80",
        b"a" * 1_024,
        b"a" * 1_025,
        b"__name__",
        b"\x00",
        b"x" * 70_000,
        b"\n\x00" * 500,
    )
    return random.choice(texts)
