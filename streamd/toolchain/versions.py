"""Writes what was built: a new engine version, whole or not at all, or plans alone into a folder.

A version is put together in a hidden folder beside, whose name no reader takes for a version, and renamed last.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from streamd.core.errors import ConfigError, RepositoryError
from streamd.repository.conversion import sha256_of
from streamd.repository.files import BUILDING_PREFIX, VersionHold, replace_file, sync_folder
from streamd.toolchain.builder import DEFAULT_BUCKETS, BuildSettings
from streamd.toolchain.plans import MadePlan
from streamd.toolchain.sources import Source

_NAME = re.compile(r"(?!.*torch)[A-Za-z0-9][A-Za-z0-9_.-]*", re.IGNORECASE)
COPIED = ("training_info.json", "server_mapping.json", "MODEL_CARD.md", "weights.safetensors")
PACKAGES = ("streamd", "onnx", "onnxruntime", "numpy", "tensorrt")


class PlansFolder:
    """Plans and their record in a plain folder; each file appears whole. Use it as a context."""

    def __init__(self, folder: Path, source: Source, command: list[str]) -> None:
        self.folder, self.source, self.command = folder, source, command
        self.plans: dict[str, dict[str, Any]] = {}
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        _make_folder(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def log(self, line: str) -> None:
        """Keep a line for `conversion_log.txt`."""
        self._lines.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  {line}")

    def add(
        self, made: MadePlan, settings: BuildSettings, about: dict[str, Any], *, keep_graph: bool = False
    ) -> dict[str, Any]:
        """Write a plan; returns its entry in the record. `about` says the GPU, the TensorRT, and what else is known."""
        path = self.folder / f"model_{made.precision}.engine"
        content: Any = memoryview(made.plan.content).cast("B")  # TensorRT's own memory: a plan is not copied
        replace_file(path, content)
        if keep_graph:
            replace_file(path.with_suffix(".onnx"), made.graph.model.SerializeToString())
        entry = plan_entry(made, settings, about, path, sha256_of(self.source.onnx))
        self.plans[made.precision] = entry
        kept = len(entry["kept_fp32"])
        self.log(f"{path.name}: {entry['bytes']:,} bytes in {entry['seconds']} s, {kept} nodes kept in float32")
        return entry

    def finish(self) -> dict[str, Any]:
        """Write the record; returns what `--json` tells."""
        _write_json(self.folder / "plans.json", {"command": self.command, "plans": self.plans})
        self._write_log("")
        return {"folder": str(self.folder), "plans": self.plans}

    def abandon(self) -> None:
        """Leave nothing that is not whole; after `finish` it does nothing."""

    def _write_log(self, before: str) -> None:
        text = before + "".join(f"{line}\n" for line in self._lines)
        replace_file(self.folder / "conversion_log.txt", text.encode())


class VersionFolder(PlansFolder):
    """A new version `<name>_tensorrt_<YYYYMMDD>_<HHMMSS>` in `root`; raises `ConfigError` for a bad name."""

    def __init__(
        self,
        source: Source,
        root: Path | None,
        name: str | None,
        command: list[str],
        *,
        default: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(Path(), source, command)
        self.root = root or (source.folder.parent if source.folder else Path("engines"))
        self.name, self.default, self._now = name or source.name, default, now
        self._hold: VersionHold | None = None
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"--name {self.name!r}: expected letters, digits, '_', '.', '-', and no PyTorch in it")

    def __enter__(self) -> Self:
        _make_folder(self.root)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{BUILDING_PREFIX}{self.name}-", dir=self.root))
        self._hold = VersionHold(self.folder)  # so that `gc` knows it from what a killed build left
        return self

    def finish(self) -> dict[str, Any]:
        """Write everything else, make it durable, and give it its name."""
        beside = self.source.folder or self.source.onnx.parent
        copied = {"model.onnx": self.source.onnx} | {name: beside / name for name in COPIED}
        for name, given in copied.items():
            if given.is_file():
                replace_file(self.folder / name, given.read_bytes())
        self._write_log(self._earlier("conversion_log.txt"))
        final = self._free_name()
        manifest = {**(self.source.manifest or {}), "name": final.name, "default": self.default}
        _write_json(self.folder / "config.json", manifest)
        _write_json(self.folder / "conversion_info.json", self._info())
        try:
            self.folder.chmod(0o755)
            sync_folder(self.folder)
            self.folder.rename(final)
            sync_folder(self.root)
        except OSError as exc:
            raise RepositoryError(f"{final}: cannot be put in place: {exc.strerror or exc}") from exc
        self.folder = final
        return {"folder": str(final), "plans": self.plans}

    def abandon(self) -> None:
        """Remove the hidden folder, unless it has been given its name."""
        if self.folder.name.startswith(BUILDING_PREFIX):
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._hold is not None:
            self._hold.close()

    def _info(self) -> dict[str, Any]:
        said = self._earlier("conversion_info.json")
        before = msgspec.json.decode(said, type=dict[str, Any]) if said else {}
        before.pop("validation", None)  # verdicts are on plans that this version does not hold
        return {
            **before,
            "source": {"path": str(self.source.onnx), "sha256": sha256_of(self.source.onnx)},
            "command": self.command,
            "toolchain": _installed(),
            "plans": self.plans,
            "sha256": {path.name: sha256_of(path) for path in sorted(self.folder.iterdir())},
        }

    def _earlier(self, name: str) -> str:
        """The text of a file of the version that this one is made from."""
        path = self.source.folder / name if self.source.folder else None
        return path.read_text(encoding="utf-8") if path and path.is_file() else ""

    def _free_name(self) -> Path:
        stamp = self._now()
        while (path := self.root / f"{self.name}_tensorrt_{stamp:%Y%m%d_%H%M%S}").exists():
            stamp += timedelta(seconds=1)
        return path


def plan_entry(
    made: MadePlan, settings: BuildSettings, about: dict[str, Any], path: Path, source_sha256: str
) -> dict[str, Any]:
    """What the record says of a plan: where it fits, how it was made, and what stayed in float32."""
    profiles = [[sizes.minimum, sizes.optimum, sizes.maximum] for sizes in settings.profiles]
    return {
        "file": path.name,
        "precision": made.precision,
        **about,
        "buckets": _buckets(settings),
        "profiles": profiles,
        "version_compatible": settings.version_compatible,
        "strongly_typed": made.graph.strongly_typed,
        "typed_graph": made.typed,
        "tf32": settings.tf32,
        "kept_fp32": made.kept.names,
        "kept_because": dict(made.kept.reasons),
        "not_quantized": dict(made.kept.not_quantized),
        "layers": made.plan.layers,
        "pinned_layers": made.plan.pinned_layers,
        "warnings": list(dict.fromkeys(made.plan.warnings)),
        "source_onnx": source_sha256,
        "bytes": path.stat().st_size,
        "seconds": round(made.plan.seconds, 1),
    }


def _buckets(settings: BuildSettings) -> list[int]:
    """The batch sizes to run a plan with: its static profiles, and those that a dynamic one takes."""
    sizes: set[int] = set()
    for each in settings.profiles:
        usual = {size for size in DEFAULT_BUCKETS if each.minimum <= size <= each.maximum}
        static = each.minimum == each.maximum
        sizes |= {each.minimum} if static else usual | {each.minimum, each.optimum, each.maximum}
    return sorted(sizes)


def _installed() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as exc:
        raise RepositoryError(f"{path}: cannot be written: {exc.strerror or exc}") from exc


def _write_json(path: Path, value: Any) -> None:
    replace_file(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
