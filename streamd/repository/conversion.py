"""Reads a version's `conversion_info.json`: its files' SHA-256, its plans, and what the accuracy gate said of them.

The hashes vouch for the version; plans and verdicts are read apart, since the graph serves without them.
"""

import hashlib
import os
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from streamd.core.errors import RepositoryError
from streamd.regular_files import open_regular, read_regular
from streamd.repository.external import find_data_files

RecordedCount = Annotated[int, msgspec.Meta(ge=1)]
MAX_FILE_NAME_BYTES = 255
PLAN_SUFFIX = ".engine"
T = TypeVar("T")


class PlanInfo(msgspec.Struct, frozen=True):
    """The record of one plan: where it lies, and what it was built on and for."""

    file: str
    gpu: str
    compute_capability: str
    tensorrt: str
    buckets: tuple[RecordedCount, ...]
    version_compatible: bool = False
    preferred: bool = False
    tf32: bool = False


class GraphInfo(msgspec.Struct, frozen=True):
    """The record of one graph of a lower precision, which ONNX Runtime runs as it is."""

    file: str


class RecordedVerdict(msgspec.Struct, frozen=True):
    """The accuracy gate's verdict on one precision; `promotable` is `None` if it gave none."""

    promotable: bool | None = None
    reasons: tuple[str, ...] = ()


class ConversionInfo(msgspec.Struct, frozen=True):
    """The keys of `conversion_info.json` that are read here; the others are the toolchain's own."""

    sha256: dict[str, str] = {}
    plans: msgspec.Raw = msgspec.Raw(b"{}")
    graphs: msgspec.Raw = msgspec.Raw(b"{}")
    validation: msgspec.Raw = msgspec.Raw(b"{}")


def read_conversion(version: Path) -> ConversionInfo:
    """Read a version's conversion info; without the file nothing is said. Raises `RepositoryError`."""
    path = version / "conversion_info.json"
    if not path.exists():
        return ConversionInfo()
    try:
        return msgspec.json.decode(read_regular(path), type=ConversionInfo)
    except (OSError, msgspec.DecodeError) as exc:
        raise RepositoryError(f"{path}: {exc}") from exc


def read_plan_infos(version: Path) -> dict[str, PlanInfo]:
    """Read the record of each precision's plan; raises `RepositoryError`."""
    return _decode(version, "plans", read_conversion(version).plans, dict[str, PlanInfo])


def read_graph_infos(version: Path) -> dict[str, GraphInfo]:
    """Read the record of each precision's graph for ONNX Runtime; raises `RepositoryError`."""
    return _decode(version, "graphs", read_conversion(version).graphs, dict[str, GraphInfo])


def choose_graph(version: Path, precision: str) -> Path:
    """Return the graph of a precision for ONNX Runtime: one that is listed and that the accuracy gate let through.

    Raises `RepositoryError` with the reason and the way out. Any version has its `model.onnx`, which is fp32.
    """
    if precision == "fp32":
        return version / "model.onnx"
    info = read_graph_infos(version).get(precision)
    way_out = f"streamd engine build --backend onnxruntime --version {version} --precision {precision}"
    if info is None or not is_plain_name(info.file) or not (version / info.file).is_file():
        raise RepositoryError(f"{version}: has no {precision} graph; make one: {way_out}")
    if info.file not in read_conversion(version).sha256:
        raise RepositoryError(f"{version / info.file}: conversion_info.json has no SHA-256 of it; {way_out}")
    verdict = read_verdicts(version).get(precision, RecordedVerdict())
    if not verdict.promotable:
        reasons = ", ".join(verdict.reasons) or "it never judged it (streamd engine validate)"
        raise RepositoryError(f"{version / info.file}: the accuracy gate did not let it through: {reasons}")
    check_data_files(version, info.file)
    return version / info.file


def read_verdicts(version: Path) -> dict[str, RecordedVerdict]:
    """The accuracy gate's verdict on each precision that it judged; raises `RepositoryError`."""
    return _decode(version, "validation", read_conversion(version).validation, dict[str, RecordedVerdict])


def check_verdicts(version: Path) -> None:
    """Raise `RepositoryError` where the accuracy gate leaves nothing of the version to serve.

    A graph without plans was compared with its network when it was exported, and passes. A precision that was
    refused is never chosen, so it is no obstacle beside one that passed; refused fp32 is, since it is the reference.
    """
    judged = {name: each for name, each in read_verdicts(version).items() if each.promotable is not None}
    refused = {name: each for name, each in judged.items() if not each.promotable}
    if "fp32" not in refused and (not refused or len(refused) < len(judged)):
        return
    said = "; ".join(f"{name}: {', '.join(each.reasons) or 'no reason given'}" for name, each in refused.items())
    raise RepositoryError(
        f"{version}: the accuracy gate refused it: {said}; build and validate another precision "
        f"(streamd engine build --version {version} --precision fp32), or promote another version"
    )


def check_hashes(version: Path) -> None:
    """Compare each file that is listed with its SHA-256; raises `RepositoryError`.

    Plans are left out: they can be built again from the graph, so a changed one is passed over when plans are
    chosen (`plans.py`), and the version still serves.
    """
    info = version / "conversion_info.json"
    for name, expected in read_conversion(version).sha256.items():
        file = version / name
        if not is_plain_name(name):
            raise RepositoryError(f"{info}: sha256 names {name!r}, expected a file of the version itself")
        if file.suffix == PLAN_SUFFIX:
            continue
        if not file.is_file():
            raise RepositoryError(f"{file}: missing; {info.name} lists it; copy the version again, whole")
        found = hash_file(file)
        if found != expected:
            raise RepositoryError(
                f"{file}: changed since it was made (SHA-256 {found}, expected {expected}); copy the version again"
            )


def check_data_files(version: Path, graph: str) -> None:
    """Raise `RepositoryError` unless the files in which a version's graph keeps weights are whole and vouched for.

    A record that vouches for the graph must vouch for these too; a version without hashes has no record to ask.
    """
    hashes = read_conversion(version).sha256
    for name, file in find_data_files(version / graph).items():
        if graph in hashes and name not in hashes:
            raise RepositoryError(
                f"{file}: {graph} keeps weights there, and conversion_info.json has no SHA-256 of it; "
                "build the version again: streamd engine build"
            )


def hash_graph(graph: Path) -> str:
    """A graph's SHA-256 in hexadecimal, with the files in which it keeps weights; raises `RepositoryError`."""
    own = hash_file(graph)
    files = find_data_files(graph)
    if not files:
        return own
    lines = [own, *(f"{hash_file(file)}  {name}" for name, file in sorted(files.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def hash_file(file: Path) -> str:
    """A file's SHA-256 in hexadecimal; raises `RepositoryError`."""
    try:
        with open_regular(file) as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as exc:
        raise RepositoryError(f"{file}: cannot be read: {exc.strerror or exc}") from exc


def is_plain_name(name: str) -> bool:
    """Whether this is a file's own name, without any way to another folder."""
    return (
        name not in ("", ".", "..") and not set(name) & {"/", "\x00"} and len(os.fsencode(name)) <= MAX_FILE_NAME_BYTES
    )


def _decode(version: Path, key: str, raw: msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as exc:
        raise RepositoryError(f"{version / 'conversion_info.json'}: {key}: {exc}") from exc
