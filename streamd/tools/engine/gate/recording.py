"""Writes into a published version: verdicts into its record, lines into its log, measurements beside them.

A file's hash is removed from the record before the file changes, and the new hash is added after that, so that a writer
that is killed at any moment leaves a sound version.
"""

from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamd.repository.conversion import hash_file
from streamd.repository.files import lock_repository, replace_file
from streamd.repository.schema import VERSION_RECORD
from streamd.tools.engine.gate.targets import read_gate_record
from streamd.tools.engine.output.atomic_version import CONVERSION_LOG, write_json


def record_verdicts(record: Path, verdicts: dict[str, dict[str, Any]], lines: list[str]) -> None:
    """Write verdicts by precision into a record, and lines into the log beside it; raises `RepositoryError`.

    Verdicts on other precisions stay as they are.
    """
    with _lock_version(record):
        _append_log(record, lines)
        content = read_gate_record(record)
        write_json(record, {**content, "validation": {**content.get("validation", {}), **verdicts}})


def write_unlisted_file(version: Path, name: str, content: bytes) -> None:
    """Write a file that the record has no hash of into a version, whole or not at all; raises `RepositoryError`.

    For files that nothing is loaded from, such as measurements, which may change at any time.
    """
    record = version / VERSION_RECORD
    with _lock_version(record):
        _remove_hash(record, name)
        replace_file(version / name, content)


def _lock_version(record: Path) -> AbstractContextManager[None]:
    """Lock out all others that change this version; a plain folder of plans has only one writer."""
    return lock_repository(record.parent.parent) if record.name == VERSION_RECORD else nullcontext()


def _append_log(record: Path, lines: list[str]) -> None:
    """Append lines to the log, and list its new hash if the old one was listed or the log is new."""
    path = record.with_name(CONVERSION_LOG)
    listed = _remove_hash(record, CONVERSION_LOG)
    before = path.read_bytes() if path.is_file() else b""
    stamped = "".join(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  {line}\n" for line in lines)
    replace_file(path, before + stamped.encode())
    if listed or not before:
        content = read_gate_record(record)
        write_json(record, {**content, "sha256": {**content.get("sha256", {}), CONVERSION_LOG: hash_file(path)}})


def _remove_hash(record: Path, name: str) -> bool:
    """Remove a file's hash from the record; return whether it was listed."""
    content = read_gate_record(record)
    hashes = dict(content.get("sha256", {}))
    if name not in hashes:
        return False
    del hashes[name]
    write_json(record, {**content, "sha256": hashes})
    return True
