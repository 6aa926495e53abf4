"""Plans that run one after another: how one file holds them, and which tensors go from one to the next.

Where one plan cannot hold all that is asked of it, a network is cut into stages, each a plan of its own. Knows plans
as bytes and tensors as specs, and nothing of TensorRT.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from streamd.core.errors import BackendUnavailableError
from streamd.device.runner import TensorSpec

MAGIC = b"streamd-stages\x00\x01"
"""What a file of several plans begins with; its last byte is the format's version."""

MOST_STAGES = 16
ALIGNMENT = 8
"""Each plan begins at a multiple of so many bytes."""

Content = bytes | bytearray | memoryview


# ---------------------------------------------------------------- the file
def pack_stages(plans: Sequence[Content]) -> bytes:
    """Return the content of one file for 1 to 16 plans, in the order in which they run; one plan is its own file.

    Behind the magic: the count (little-endian, 32 bits), each plan's bytes (64 bits each), and the plans, each begun
    at a multiple of 8 bytes, with zeros between. Raises `ValueError` for another count and for an empty plan.
    """
    lengths = [memoryview(plan).nbytes for plan in plans]
    if not 0 < len(lengths) <= MOST_STAGES or 0 in lengths:
        raise ValueError(f"plans of {lengths} bytes, expected 1 to {MOST_STAGES} plans, none of them empty")
    if len(plans) == 1:
        return bytes(plans[0])
    pieces: list[Content] = [MAGIC, struct.pack(f"<I{len(lengths)}Q", len(lengths), *lengths)]
    end = sum(map(len, pieces))
    for plan, begin, length in zip(plans, _begins(end, lengths), lengths, strict=True):
        pieces += [bytes(begin - end), plan]
        end = begin + length
    return b"".join(pieces)


def unpack_stages(content: Content) -> tuple[memoryview, ...]:
    """Return the plans that a file holds, in the order in which they run: views of `content`, nothing is copied.

    Content without the magic is one plan. Raises `BackendUnavailableError` for an empty file, a truncated one, and one
    that is not as `pack_stages` makes it; a plan's own bytes are not looked at.
    """
    view = memoryview(content).cast("B")
    if not MAGIC.startswith(bytes(view[: len(MAGIC)])):
        return (view,)
    end, lengths = _read_header(view)
    places = list(zip(_begins(end, lengths), lengths, strict=True))
    expected = sum(places[-1])
    if len(view) != expected:
        raise BackendUnavailableError(f"{len(view)} bytes for stages of {lengths} bytes, expected {expected}")
    for begin, length in places:
        if any(view[end:begin]):
            raise BackendUnavailableError(f"bytes {end} to {begin} lie between plans, expected zeros")
        end = begin + length
    return tuple(view[begin : begin + length] for begin, length in places)


def _read_header(view: memoryview) -> tuple[int, list[int]]:
    """Where the header ends, and the bytes of each plan."""
    least = len(MAGIC) + struct.calcsize("<I")
    if len(view) < least:
        raise BackendUnavailableError(f"{len(view)} bytes, expected a plan, or at least {least} bytes for stages")
    (count,) = struct.unpack_from("<I", view, len(MAGIC))
    if not 1 < count <= MOST_STAGES:
        raise BackendUnavailableError(f"{count} stages, expected 2 to {MOST_STAGES}")
    header = len(MAGIC) + struct.calcsize(f"<I{count}Q")
    if len(view) < header:
        raise BackendUnavailableError(f"{len(view)} bytes, expected at least {header} bytes for {count} stages")
    lengths = list(struct.unpack_from(f"<{count}Q", view, least))
    if 0 in lengths:
        raise BackendUnavailableError(f"stage {lengths.index(0) + 1} of {count} is empty, expected a plan")
    return header, lengths


def _begins(end: int, lengths: Sequence[int]) -> Iterator[int]:
    """Where each plan begins, behind a header that ends at byte `end`."""
    for length in lengths:
        begin = -(-end // ALIGNMENT) * ALIGNMENT
        yield begin
        end = begin + length


def stage_told(index: int, count: int) -> str:
    """As `stage 2 of 3` for index 1; empty where there is but one."""
    return f"stage {index + 1} of {count}" if count > 1 else ""


# ---------------------------------------------------------------- the tensors
@dataclass(frozen=True, slots=True)
class StageTensors:
    """What one stage reads, and what it gives."""

    reads: tuple[TensorSpec, ...]
    gives: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of all stages together, each name once; an axis may be open until a context knows its inputs."""

    inputs: list[TensorSpec]
    """Those that no stage gives."""
    intermediates: list[TensorSpec]
    """Those that a later stage reads; they never leave the device."""
    outputs: list[TensorSpec]
    """Those that no later stage reads."""
    stages: tuple[StageTensors, ...]
    """Each stage's own tensors, as any stage knows their shapes."""


def wire(stages: Sequence[StageTensors]) -> Tensors:
    """Return the tensors of stages that run in this order, joined by their names.

    Raises `BackendUnavailableError` where a tensor is read in another type or shape than it has elsewhere, is given
    twice, or is read before it is given.
    """
    known: dict[str, TensorSpec] = {}
    first: dict[str, str] = {}
    given: set[str] = set()
    passed: set[str] = set()
    for index, stage in enumerate(stages):
        told = stage_told(index, len(stages)) or "the engine"
        for spec in stage.reads:
            before = first.setdefault(spec.name, f"{told} reads")
            known[spec.name] = _joined(known.get(spec.name, spec), spec, before, f"{told} reads")
        passed |= given & {spec.name for spec in stage.reads}
        for spec in stage.gives:
            if spec.name in known:
                raise BackendUnavailableError(
                    f"tensor {spec.name!r}: {first[spec.name]} it, and {told} gives it, expected one stage to give it "
                    "and only later ones to read it"
                )
            known[spec.name], first[spec.name] = spec, f"{told} gives"
            given.add(spec.name)
    return Tensors(
        [spec for name, spec in known.items() if name not in given],
        [spec for name, spec in known.items() if name in passed],
        [spec for name, spec in known.items() if name in given - passed],
        tuple(
            StageTensors(*(tuple(known[spec.name] for spec in specs) for specs in (stage.reads, stage.gives)))
            for stage in stages
        ),
    )


def with_sizes(spec: TensorSpec, sizes: Sequence[int | None]) -> TensorSpec | None:
    """Return a tensor with its open axes as `sizes` has them; None where an axis that both know differs."""
    if len(spec.shape) != len(sizes):
        return None
    pairs = list(zip(spec.shape, sizes, strict=True))
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        return None
    return replace(spec, shape=tuple(other if own is None else own for own, other in pairs))


def _joined(one: TensorSpec, other: TensorSpec, how_one: str, how_other: str) -> TensorSpec:
    """A tensor as two stages know it together."""
    joined = with_sizes(one, other.shape) if one.dtype == other.dtype else None
    if joined is None:
        raise BackendUnavailableError(
            f"tensor {one.name!r}: {how_other} it as {other.told}, but {how_one} it as {one.told}"
        )
    return joined
