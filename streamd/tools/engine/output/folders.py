"""Writes what was built: a new engine version, whole or not at all, or plans and graphs alone into a folder.

The record has an entry for each file: which machine it fits, how it was made, and which nodes stayed in float32.
"""

import importlib.metadata
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from streamd.repository.conversion import hash_graph
from streamd.repository.external import find_data_files
from streamd.repository.files import copy_file, replace_file
from streamd.repository.schema import PLANS_RECORD, VERSION_RECORD, FolderPlanInfo, GraphInfo, check_entry
from streamd.tools.engine.flags import DEFAULT_BUCKETS
from streamd.tools.engine.graph.external_weights import copy_weights_beside
from streamd.tools.engine.graph.onnx_graph import serialize_graph
from streamd.tools.engine.graph.optional_inputs import restore_defaults
from streamd.tools.engine.graph.source import GraphSource
from streamd.tools.engine.output.atomic_version import (
    CONVERSION_LOG,
    NewVersion,
    make_writable_folder,
    write_json,
)
from streamd.tools.engine.plan.builder import BuildSettings
from streamd.tools.engine.plan.maker import MadePlan
from streamd.tools.engine.precision.graphs import MadeGraph

COPIED_FILES = ("training_info.json", "server_mapping.json", "MODEL_CARD.md", "weights.safetensors")
RECORDED_PACKAGES = ("streamd", "onnx", "onnxruntime", "numpy", "tensorrt")


class PlansFolder:
    """Plans and their record in a plain folder. Use it as a context.

    Each file is written whole, and is on record only while it is the one that the record describes. So, if a build of
    several plans fails, those that were made can be used, as can earlier ones of the same graph.
    """

    def __init__(self, folder: Path, source: GraphSource, command: list[str]) -> None:
        self.folder, self.source, self.command = folder, source, command
        self.plans: dict[str, dict[str, Any]] = {}
        self.graphs: dict[str, dict[str, Any]] = {}
        self._lines: list[str] = []
        self._earlier_log = ""
        self._is_new = False

    def __enter__(self) -> Self:
        self._is_new = not self.folder.exists()
        make_writable_folder(self.folder)
        log = self.folder / CONVERSION_LOG
        self._earlier_log = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def log_line(self, line: str) -> None:
        """Add a line to `conversion_log.txt`, which is written with the record."""
        self._lines.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  {line}")

    def add_plan(
        self, made: MadePlan, settings: BuildSettings, about: dict[str, Any], *, keep_graph: bool = False
    ) -> dict[str, Any]:
        """Write a plan; return its entry in the record.

        `about` has further keys of the entry: the GPU, the version of TensorRT, and the calibration.
        """
        path = self.folder / f"model_{made.precision}.engine"
        self._remove_entries(made.precision, "plans", "validation", *(["graphs"] if keep_graph else []))
        content: Any = memoryview(made.plan.content).cast(
            "B"
        )  # TensorRT's own memory: a plan may be large, and is not copied
        replace_file(path, content)
        if keep_graph:
            for number, graph in enumerate(made.graphs, 1):
                suffix = f".stage{number}.onnx" if len(made.graphs) > 1 else ".onnx"
                place = path.with_suffix(suffix)
                replace_file(place, serialize_graph(graph.model, place))
            if made.uncut_model is not None:
                whole = path.with_suffix(".onnx")
                replace_file(whole, serialize_graph(made.uncut_model, whole))
        entry = make_plan_entry(made, settings, about, path, self._source_sha256)
        self.plans[made.precision] = entry
        kept = len(entry["kept_fp32"])
        self.log_line(f"{path.name}: {entry['bytes']:,} bytes in {entry['seconds']} s, {kept} nodes kept in float32")
        self._write_record()
        return entry

    def add_graph(self, made: MadeGraph, about: dict[str, Any]) -> dict[str, Any]:
        """Write a graph that ONNX Runtime runs as it is; return its entry in the record. `about` as for `add_plan`."""
        path = self.folder / ("model.onnx" if made.precision == "fp32" else f"model_{made.precision}.onnx")
        self._remove_entries(made.precision, "graphs", "validation")
        if made.precision == "fp32":
            self._write_source(path)
        else:
            replace_file(path, serialize_graph(restore_defaults(made.model, self.source.defaults), path))
        entry = make_graph_entry(made, about, path, self._source_sha256)
        self.graphs[made.precision] = entry
        kept = len(entry["kept_fp32"])
        self.log_line(f"{path.name}: {entry['bytes']:,} bytes in {entry['seconds']} s, {kept} nodes kept in float32")
        self._write_record()
        return entry

    def finish(self) -> dict[str, Any]:
        """Write the record; return what `--json` prints."""
        self._write_record()
        return {"folder": str(self.folder), **self._describe_made()}

    def _describe_made(self) -> dict[str, Any]:
        """Return the entries of the plans and, if there are any, of the graphs."""
        return {"plans": self.plans} | ({"graphs": self.graphs} if self.graphs else {})

    def abandon(self) -> None:
        """Remove the folder if it is new and empty; files in it are whole, and stay. After `finish` this is a no-op."""
        if self._is_new:
            with suppress(OSError):  # it is not empty
                self.folder.rmdir()

    @cached_property
    def _source_sha256(self) -> str:
        return hash_graph(self.source.onnx)

    def _write_source(self, path: Path) -> None:
        """Write the float32 graph, with weights from other files within it, or beside it if they are too large."""
        files = find_data_files(self.source.onnx)
        if not files:
            replace_file(path, self.source.onnx.read_bytes())
            return
        model = restore_defaults(self.source.model, self.source.defaults)
        if not self.source.has_weights:
            given, model = model, type(model)()
            model.CopyFrom(given)
            copy_weights_beside(model, files, path)
        replace_file(path, serialize_graph(model, path))

    def _remove_entries(self, precision: str, *kinds: str) -> None:
        """Remove a precision's entries from the record, before its file changes."""
        record = _read_record(self.folder / PLANS_RECORD)
        if any(precision in record.get(kind, {}) for kind in kinds):
            kept = {kind: _without(record.get(kind, {}), precision) for kind in kinds}
            write_json(self.folder / PLANS_RECORD, {**record, **kept})

    def _write_record(self) -> None:
        """Write the record: all that this build made until now, and earlier files that were made of the same graph."""
        record = _read_record(self.folder / PLANS_RECORD)
        kinds: dict[str, Any] = {}
        for kind, made in (("plans", self.plans), ("graphs", self.graphs)):
            before = record.get(kind, {})
            kinds[kind] = {
                name: each for name, each in before.items() if each.get("source_onnx") == self._source_sha256
            } | made
        listed = {*kinds["plans"], *kinds["graphs"]}
        kinds["validation"] = {name: each for name, each in record.get("validation", {}).items() if name in listed}
        written = {kind: entries for kind, entries in kinds.items() if entries or kind == "plans"}
        write_json(self.folder / PLANS_RECORD, {"command": self.command, **written})
        self._write_log(self._earlier_log)

    def _write_log(self, before: str) -> None:
        text = before + "".join(f"{line}\n" for line in self._lines)
        replace_file(self.folder / CONVERSION_LOG, text.encode())


class VersionFolder(PlansFolder):
    """A new version of plans or graphs, in `root`. Raises `ConfigError` for a bad name."""

    def __init__(
        self,
        source: GraphSource,
        root: Path | None,
        name: str | None,
        command: list[str],
        *,
        default: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(Path(), source, command)
        root = root or (source.folder.parent if source.folder else Path("engines"))
        self._new = NewVersion(root, name or source.name, default=default, now=now)

    def __enter__(self) -> Self:
        self.folder = self._new.__enter__().folder
        return self

    def finish(self) -> dict[str, Any]:
        """Write all other files and publish the version; return what `--json` prints."""
        beside = self.source.folder or self.source.onnx.parent
        if not (self.folder / "model.onnx").is_file():
            self._write_source(self.folder / "model.onnx")
        for name in COPIED_FILES:
            if (beside / name).is_file():
                copy_file(beside / name, self.folder / name)
        self._write_log(self._read_earlier(CONVERSION_LOG))
        self.folder = self._new.publish(self.source.manifest or {}, self._make_info())
        return {"folder": str(self.folder), **self._describe_made()}

    def abandon(self) -> None:
        """Remove the hidden folder, unless the version is published."""
        self._new.abandon()

    def _remove_entries(self, precision: str, *kinds: str) -> None:
        """Do nothing: a hidden folder has no record yet."""

    def _write_record(self) -> None:
        """Do nothing: `finish` writes the record, with everything else."""

    def _make_info(self) -> dict[str, Any]:
        """Return the content of the record: that of the source's version, with what this build changes."""
        earlier = self._read_earlier(VERSION_RECORD)
        before = msgspec.json.decode(earlier, type=dict[str, Any]) if earlier else {}
        for key in ("validation", "graphs"):  # they describe files that this version does not have
            before.pop(key, None)
        return {
            **before,
            "source": {"path": str(self.source.onnx), "sha256": self._source_sha256},
            "command": self.command,
            "toolchain": list_installed_packages(),
            "plans": {},
            **self._describe_made(),
        }

    def _read_earlier(self, name: str) -> str:
        """Return the text of a file of the version that this one is made from; empty if there is no such file."""
        path = self.source.folder / name if self.source.folder else None
        return path.read_text(encoding="utf-8") if path and path.is_file() else ""


def make_plan_entry(
    made: MadePlan, settings: BuildSettings, about: dict[str, Any], path: Path, source_sha256: str
) -> dict[str, Any]:
    """Return the record's entry for a plan: which machine it fits, how it was made, and what stayed in float32."""
    profiles = [[sizes.minimum, sizes.optimum, sizes.maximum] for sizes in settings.profiles]
    entry = {
        "file": path.name,
        "precision": made.precision,
        **about,
        "buckets": _list_buckets(settings),
        "profiles": profiles,
        "version_compatible": settings.version_compatible,
        "stages": len(made.graphs),
        "alternatives": made.alternatives,
        "strongly_typed": made.graphs[0].strongly_typed,
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
    return check_entry(entry, FolderPlanInfo)


def make_graph_entry(made: MadeGraph, about: dict[str, Any], path: Path, source_sha256: str) -> dict[str, Any]:
    """Return the record's entry for a graph for ONNX Runtime: how it was made, and what stayed in float32."""
    entry = {
        "file": path.name,
        "precision": made.precision,
        **about,
        "kept_fp32": made.kept.names,
        "kept_because": dict(made.kept.reasons),
        "not_quantized": dict(made.kept.not_quantized),
        "source_onnx": source_sha256,
        "bytes": path.stat().st_size,
        "seconds": round(made.seconds, 1),
    }
    return check_entry(entry, GraphInfo)


def _read_record(record: Path) -> dict[str, dict[str, Any]]:
    """Return the record of earlier builds; empty if there is no file or it cannot be read."""
    try:
        return msgspec.json.decode(record.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return {}


def _without(entries: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if key != name}


def _list_buckets(settings: BuildSettings) -> list[int]:
    """Return the batch sizes to run a plan with: those of its static profiles, and usual ones of a dynamic profile."""
    sizes: set[int] = set()
    for each in settings.profiles:
        usual = {size for size in DEFAULT_BUCKETS if each.minimum <= size <= each.maximum}
        is_static = each.minimum == each.maximum
        sizes |= {each.minimum} if is_static else usual | {each.minimum, each.optimum, each.maximum}
    return sorted(sizes)


def list_installed_packages() -> dict[str, str]:
    """Return the versions of the packages that a record lists, as far as they are installed."""
    found = {}
    for package in RECORDED_PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
