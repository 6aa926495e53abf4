"""Reads a version's `conversion_info.json`: the hashes of its files, its plans and the verdicts of the accuracy gate.

A version is sound only if its hashes fit. Plans and verdicts are read separately, since the graph serves without them.
"""

import hashlib
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from streamd.core.errors import RepositoryError
from streamd.regular_files import open_regular, read_regular
from streamd.repository.external import find_data_files
from streamd.repository.schema import (
    EXACT_PRECISION,
    PLAN_SUFFIX,
    VERSION_RECORD,
    ConversionInfo,
    GraphInfo,
    PlanInfo,
    RecordedVerdict,
)

MAX_FILE_NAME_BYTES = 255
T = TypeVar("T")


def read_conversion(version: Path) -> ConversionInfo:
    """Read a version's conversion info, which is empty if there is no file; raises `RepositoryError`."""
    path = version / VERSION_RECORD
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
    """Return the graph of a precision for ONNX Runtime: one that is listed and that passed the accuracy gate.

    Raises `RepositoryError` with the reason and the remedy. Every version has its `model.onnx`, which is fp32.
    """
    if precision == EXACT_PRECISION:
        return version / "model.onnx"
    info = read_graph_infos(version).get(precision)
    remedy = f"streamd engine build --backend onnxruntime --version {version} --precision {precision}"
    if info is None or not is_plain_name(info.file) or not (version / info.file).is_file():
        raise RepositoryError(f"{version}: has no {precision} graph; make one: {remedy}")
    if info.file not in read_conversion(version).sha256:
        raise RepositoryError(f"{version / info.file}: {VERSION_RECORD} has no SHA-256 of it; {remedy}")
    verdict = read_verdicts(version).get(precision, RecordedVerdict())
    if not verdict.promotable:
        reasons = ", ".join(verdict.reasons) or "never validated (streamd engine validate)"
        raise RepositoryError(f"{version / info.file}: the accuracy gate did not let it through: {reasons}")
    check_data_files(version, info.file)
    return version / info.file


def read_verdicts(version: Path) -> dict[str, RecordedVerdict]:
    """Read the accuracy gate's verdict on each precision that it judged; raises `RepositoryError`."""
    return _decode(version, "validation", read_conversion(version).validation, dict[str, RecordedVerdict])


def check_verdicts(version: Path) -> None:
    """Raise `RepositoryError` if the accuracy gate leaves nothing of the version to serve.

    1. Without verdicts a version passes: its graph was compared with its network when it was exported.
    2. A refused precision is no obstacle beside one that passed, since it is never chosen.
    3. Refused fp32 is an obstacle, since it is the reference for all others.
    """
    judged = {name: each for name, each in read_verdicts(version).items() if each.promotable is not None}
    refused = {name: each for name, each in judged.items() if not each.promotable}
    if "fp32" not in refused and (not refused or len(refused) < len(judged)):
        return
    reasons = "; ".join(f"{name}: {', '.join(each.reasons) or 'no reason given'}" for name, each in refused.items())
    raise RepositoryError(
        f"{version}: the accuracy gate refused it: {reasons}; build and validate another precision "
        f"(streamd engine build --version {version} --precision fp32), or promote another version"
    )


def check_hashes(version: Path) -> None:
    """Compare each listed file with its SHA-256; raises `RepositoryError`.

    Plans are not compared: they can be built again from the graph. A changed plan is passed over when a plan is chosen
    (`plans.py`), and the version still serves.
    """
    info = version / VERSION_RECORD
    for name, expected in read_conversion(version).sha256.items():
        file = version / name
        if not is_plain_name(name):
            raise RepositoryError(f"{info}: sha256 names {name!r}, expected a file of the version itself")
        if file.suffix == PLAN_SUFFIX:
            continue
        if not file.is_file():
            raise RepositoryError(f"{file}: missing, but {info.name} lists it; copy the whole version again")
        found = hash_file(file)
        if found != expected:
            raise RepositoryError(
                f"{file}: changed since it was made (SHA-256 {found}, expected {expected}); copy the version again"
            )


def check_data_files(version: Path, graph: str) -> None:
    """Raise `RepositoryError` unless the files in which a version's graph keeps weights are whole and listed.

    A record that lists the hash of the graph must list theirs too. A version without hashes passes.
    """
    hashes = read_conversion(version).sha256
    for name, file in find_data_files(version / graph).items():
        if graph in hashes and name not in hashes:
            raise RepositoryError(
                f"{file}: {graph} keeps weights there, and {VERSION_RECORD} has no SHA-256 of it; "
                "build the version again: streamd engine build"
            )


def hash_graph(graph: Path) -> str:
    """Return the SHA-256 of a graph and of the files in which it keeps weights, in hexadecimal.

    Raises `RepositoryError` if a file cannot be read.
    """
    own = hash_file(graph)
    files = find_data_files(graph)
    if not files:
        return own
    lines = [own, *(f"{hash_file(file)}  {name}" for name, file in sorted(files.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def hash_file(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; raises `RepositoryError`."""
    try:
        with open_regular(file) as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as exc:
        raise RepositoryError(f"{file}: cannot be read: {exc.strerror or exc}") from exc


def is_plain_name(name: str) -> bool:
    """Whether this is the name of a file and not a path to another folder."""
    return (
        name not in ("", ".", "..") and not set(name) & {"/", "\x00"} and len(os.fsencode(name)) <= MAX_FILE_NAME_BYTES
    )


def _decode(version: Path, key: str, raw: msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as exc:
        raise RepositoryError(f"{version / VERSION_RECORD}: {key}: {exc}") from exc
