"""Writes into a version that is already in place: verdicts into its record, lines into its log, figures beside them.

A hash is taken off the record before its file changes and put back with the new one, so that a writer killed at any
moment leaves a sound version.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamd.repository.conversion import sha256_of
from streamd.repository.files import exclusive, replace_file
from streamd.tools.engine.gate.targets import read_gate_record
from streamd.tools.engine.output.atomic_version import VERSION_RECORD, write_json

LOG = "conversion_log.txt"


def record_verdicts(record: Path, verdicts: dict[str, dict[str, Any]], lines: list[str]) -> None:
    """Put verdicts by precision into a record, and lines into the log beside it; raises `RepositoryError`.

    Verdicts on other precisions stay as they are.
    """
    with _alone(record):
        _write_log(record, lines)
        said = read_gate_record(record)
        write_json(record, {**said, "validation": {**said.get("validation", {}), **verdicts}})


def write_unlisted_file(version: Path, name: str, content: bytes) -> None:
    """Put a file that nothing is loaded from into a version, all or nothing; raises `RepositoryError`.

    It may change as often as it is measured, so the record does not vouch for it.
    """
    record = version / VERSION_RECORD
    with _alone(record):
        _unlist(record, name)
        replace_file(version / name, content)


def _alone(record: Path) -> AbstractContextManager[None]:
    """Be the only one that changes this version; a plain folder of plans has one writer."""
    return exclusive(record.parent.parent) if record.name == VERSION_RECORD else nullcontext()


def _write_log(record: Path, lines: list[str]) -> None:
    path = record.with_name(LOG)
    listed = _unlist(record, LOG)
    before = path.read_bytes() if path.is_file() else b""
    stamped = "".join(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  {line}\n" for line in lines)
    replace_file(path, before + stamped.encode())
    if listed or not before:
        said = read_gate_record(record)
        write_json(record, {**said, "sha256": {**said.get("sha256", {}), LOG: sha256_of(path)}})


def _unlist(record: Path, name: str) -> bool:
    """Take a file's hash off the record; returns whether it was there."""
    said = read_gate_record(record)
    hashes = dict(said.get("sha256", {}))
    if name not in hashes:
        return False
    del hashes[name]
    write_json(record, {**said, "sha256": hashes})
    return True
