"""Files of several plans: stages that run one after another, and alternatives of which each batch takes one.

A network that no one plan can hold is cut into stages, each a plan of its own; alternatives are plans of the same
network, each for some of the batches. Knows plans as bytes only.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamd.core.errors import BackendUnavailableError

STAGES_MAGIC = b"streamd-stages\x00\x01"
"""What a file of several stages begins with; its last byte is the format's version."""

ALTERNATIVES_MAGIC = b"streamd-plans\x00\x00\x01"
"""What a file of several alternatives begins with, in the same way."""

MAX_STAGES = 16
MAX_ALTERNATIVES = 16
ALIGNMENT = 8
"""Each part begins at a multiple of so many bytes."""

Content = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class _Kind:
    """The kinds of parts of which a file may hold several."""

    part: str
    magic: bytes
    most: int

    def begins(self, view: memoryview) -> bool:
        """Whether content begins so, as far as it goes: a truncated file is of its kind too."""
        return self.magic.startswith(bytes(view[: len(self.magic)]))


_STAGES = _Kind("stage", STAGES_MAGIC, MAX_STAGES)
_ALTERNATIVES = _Kind("plan", ALTERNATIVES_MAGIC, MAX_ALTERNATIVES)


def pack_stages(plans: Sequence[Content]) -> bytes:
    """Return the content of one file for 1 to 16 plans, in the order in which they run; one plan is its own file.

    Behind the magic: the count (little-endian, 32 bits), each plan's bytes (64 bits each), and the plans, each begun
    at a multiple of 8 bytes, with zeros between. Raises `ValueError` for another count, and for a plan that is empty
    or such a file itself.
    """
    views = _views(plans, _STAGES)
    nested = _nested(views)
    if nested is not None:
        raise ValueError(f"plan {nested + 1} of {len(views)} holds several plans, expected one")
    return _pack(views, _STAGES)


def pack_alternatives(contents: Sequence[Content]) -> bytes:
    """Return the content of one file for 1 to 16 alternatives, each a plan or what `pack_stages` made of several.

    One alternative is its own file; several lie in it as stages do, behind another magic. Raises `ValueError` for
    another count, and for an alternative that `unpack_stages` refuses.
    """
    views = _views(contents, _ALTERNATIVES)
    for index, view in enumerate(views):
        try:
            unpack_stages(view)
        except BackendUnavailableError as exc:
            raise ValueError(f"plan {index + 1} of {len(views)}: {exc}") from exc
    return _pack(views, _ALTERNATIVES)


def unpack_plans(content: Content) -> tuple[tuple[memoryview, ...], ...]:
    """Return the alternatives that a file holds, each its stages in order: views of `content`, nothing is copied.

    Content without a magic is one alternative of one stage. Raises `BackendUnavailableError` for an empty file, a
    truncated one, and one that is not as `pack_alternatives` makes it; beyond a magic, a plan's own bytes are not
    looked at.
    """
    view = memoryview(content).cast("B")
    alternatives = _split(view, _ALTERNATIVES) if _ALTERNATIVES.begins(view) else (view,)
    found = []
    for index, alternative in enumerate(alternatives):
        try:
            found.append(unpack_stages(alternative))
        except BackendUnavailableError as exc:
            place = describe_plan(index, len(alternatives))
            raise BackendUnavailableError(f"{place}: {exc}" if place else str(exc)) from exc
    return tuple(found)


def unpack_stages(content: Content) -> tuple[memoryview, ...]:
    """Return the stages of one alternative in the order in which they run, as `unpack_plans` does."""
    view = memoryview(content).cast("B")
    if _STAGES.begins(view):
        stages = _split(view, _STAGES)
        nested = _nested(stages)
        if nested is not None:
            raise BackendUnavailableError(f"{describe_stage(nested, len(stages))} holds several plans, expected one")
        return stages
    if _ALTERNATIVES.begins(view):
        raise BackendUnavailableError(f"{len(view)} bytes that begin as several plans do, expected one or its stages")
    return (view,)


def _views(contents: Sequence[Content], kind: _Kind) -> list[memoryview]:
    """The contents as bytes; raises `ValueError` unless there are as many as a file may hold, none of them empty."""
    views = [memoryview(content).cast("B") for content in contents]
    lengths = [len(view) for view in views]
    if not 0 < len(lengths) <= kind.most or 0 in lengths:
        raise ValueError(f"plans of {lengths} bytes, expected 1 to {kind.most} plans, none of them empty")
    return views


def _nested(views: Sequence[memoryview]) -> int | None:
    """The first of some plans that is a file of several itself."""
    magics = STAGES_MAGIC, ALTERNATIVES_MAGIC
    return next((index for index, view in enumerate(views) if bytes(view[: len(STAGES_MAGIC)]) in magics), None)


def _pack(views: Sequence[memoryview], kind: _Kind) -> bytes:
    if len(views) == 1:
        return bytes(views[0])
    lengths = [len(view) for view in views]
    pieces: list[Content] = [kind.magic, struct.pack(f"<I{len(lengths)}Q", len(lengths), *lengths)]
    end = sum(map(len, pieces))
    for view, begin, length in zip(views, _begins(end, lengths), lengths, strict=True):
        pieces += [bytes(begin - end), view]
        end = begin + length
    return b"".join(pieces)


def _split(view: memoryview, kind: _Kind) -> tuple[memoryview, ...]:
    """The parts of a file that begins as one of this kind."""
    end, lengths = _read_header(view, kind)
    places = list(zip(_begins(end, lengths), lengths, strict=True))
    expected = sum(places[-1])
    if len(view) != expected:
        raise BackendUnavailableError(f"{len(view)} bytes for {kind.part}s of {lengths} bytes, expected {expected}")
    for begin, length in places:
        if any(view[end:begin]):
            raise BackendUnavailableError(f"bytes {end} to {begin} lie between plans, expected zeros")
        end = begin + length
    return tuple(view[begin : begin + length] for begin, length in places)


def _read_header(view: memoryview, kind: _Kind) -> tuple[int, list[int]]:
    """Return where the header ends, and the bytes of each part."""
    part, least = kind.part, len(kind.magic) + struct.calcsize("<I")
    if len(view) < least:
        raise BackendUnavailableError(f"{len(view)} bytes, expected a plan, or at least {least} bytes for {part}s")
    (count,) = struct.unpack_from("<I", view, len(kind.magic))
    if not 1 < count <= kind.most:
        raise BackendUnavailableError(f"{count} {part}s, expected 2 to {kind.most}")
    header = len(kind.magic) + struct.calcsize(f"<I{count}Q")
    if len(view) < header:
        raise BackendUnavailableError(f"{len(view)} bytes, expected at least {header} bytes for {count} {part}s")
    lengths = list(struct.unpack_from(f"<{count}Q", view, least))
    if 0 in lengths:
        raise BackendUnavailableError(f"{part} {lengths.index(0) + 1} of {count} is empty, expected a plan")
    return header, lengths


def _begins(end: int, lengths: Sequence[int]) -> Iterator[int]:
    """Yield where each part begins, behind a header that ends at byte `end`."""
    for length in lengths:
        begin = -(-end // ALIGNMENT) * ALIGNMENT
        yield begin
        end = begin + length


def describe_stage(index: int, count: int) -> str:
    """As `stage 2 of 3` for index 1; empty where there is but one."""
    return f"stage {index + 1} of {count}" if count > 1 else ""


def describe_plan(index: int, count: int) -> str:
    """As `plan 2 of 6` for alternative 1; empty where there is but one."""
    return f"plan {index + 1} of {count}" if count > 1 else ""


def describe_place(alternative: int, alternatives: int, stage: int, stages: int) -> str:
    """As `plan 2 of 6, stage 1 of 3` for indices 1 and 0; what there is only one of is left out."""
    return ", ".join(filter(None, (describe_plan(alternative, alternatives), describe_stage(stage, stages))))
