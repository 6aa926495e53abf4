"""Writes what was built: a new engine version, whole or not at all, or plans and graphs alone into a folder.

Each file's entry in the record says where it fits, how it was made, and what stayed in float32.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from streamd.repository.conversion import graph_sha256
from streamd.repository.external import data_files
from streamd.repository.files import copy_file, replace_file
from streamd.tools.engine.graph.external_weights import copy_weights_beside
from streamd.tools.engine.graph.onnx_graph import serialize_graph
from streamd.tools.engine.graph.source import GraphSource
from streamd.tools.engine.output.atomic_version import NewVersion, make_writable_folder, write_json
from streamd.tools.engine.plan.builder import DEFAULT_BUCKETS, BuildSettings
from streamd.tools.engine.plan.maker import MadePlan
from streamd.tools.engine.precision.graphs import MadeGraph

COPIED = ("training_info.json", "server_mapping.json", "MODEL_CARD.md", "weights.safetensors")
PLANS_RECORD = "plans.json"
LOG = "conversion_log.txt"
RECORDED_PACKAGES = ("streamd", "onnx", "onnxruntime", "numpy", "tensorrt")


class PlansFolder:
    """Plans and their record in a plain folder. Use it as a context.

    Each file appears whole, and is on record only while it is the one that the record describes: whatever ends a build
    of several, those that were made are of use, as are earlier ones of the same graph.
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
        log = self.folder / LOG
        self._earlier_log = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
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
        self._take_off_record(made.precision, "plans", "validation", *(["graphs"] if keep_graph else []))
        content: Any = memoryview(made.plan.content).cast("B")  # TensorRT's own memory: a plan is not copied
        replace_file(path, content)
        if keep_graph:
            for number, graph in enumerate(made.graphs, 1):
                suffix = f".stage{number}.onnx" if len(made.graphs) > 1 else ".onnx"
                place = path.with_suffix(suffix)
                replace_file(place, serialize_graph(graph.model, place))
            if made.uncut_model is not None:
                whole = path.with_suffix(".onnx")
                replace_file(whole, serialize_graph(made.uncut_model, whole))
        entry = plan_entry(made, settings, about, path, self._source_sha256)
        self.plans[made.precision] = entry
        kept = len(entry["kept_fp32"])
        self.log(f"{path.name}: {entry['bytes']:,} bytes in {entry['seconds']} s, {kept} nodes kept in float32")
        self._put_on_record()
        return entry

    def add_graph(self, made: MadeGraph, about: dict[str, Any]) -> dict[str, Any]:
        """Write a graph that ONNX Runtime runs as it is; returns its entry in the record. `about` as for `add`."""
        path = self.folder / ("model.onnx" if made.precision == "fp32" else f"model_{made.precision}.onnx")
        self._take_off_record(made.precision, "graphs", "validation")
        if made.precision == "fp32":
            self._write_source(path)
        else:
            replace_file(path, serialize_graph(made.model, path))
        entry = graph_entry(made, about, path, self._source_sha256)
        self.graphs[made.precision] = entry
        kept = len(entry["kept_fp32"])
        self.log(f"{path.name}: {entry['bytes']:,} bytes in {entry['seconds']} s, {kept} nodes kept in float32")
        self._put_on_record()
        return entry

    def finish(self) -> dict[str, Any]:
        """Write the record; returns what `--json` tells."""
        self._put_on_record()
        return {"folder": str(self.folder), **self._made()}

    def _made(self) -> dict[str, Any]:
        return {"plans": self.plans} | ({"graphs": self.graphs} if self.graphs else {})

    def abandon(self) -> None:
        """Leave nothing that is not whole; after `finish` it does nothing."""
        if self._is_new:
            with suppress(OSError):  # it holds something
                self.folder.rmdir()

    @cached_property
    def _source_sha256(self) -> str:
        return graph_sha256(self.source.onnx)

    def _write_source(self, path: Path) -> None:
        """Write the float32 graph: as it is, or with what it keeps in other files, within it or beside it."""
        files = data_files(self.source.onnx)
        if not files:
            replace_file(path, self.source.onnx.read_bytes())
            return
        model = self.source.model
        if not self.source.has_weights:
            model = type(model)()
            model.CopyFrom(self.source.model)
            copy_weights_beside(model, files, path)
        replace_file(path, serialize_graph(model, path))

    def _take_off_record(self, precision: str, *kinds: str) -> None:
        """Before a file changes: the record no longer says anything of it."""
        record = _read(self.folder / PLANS_RECORD)
        if any(precision in record.get(kind, {}) for kind in kinds):
            kept = {kind: _without(record.get(kind, {}), precision) for kind in kinds}
            write_json(self.folder / PLANS_RECORD, {**record, **kept})

    def _put_on_record(self) -> None:
        """Write what was made until now into the record, beside what was made of the same graph before."""
        record = _read(self.folder / PLANS_RECORD)
        said: dict[str, Any] = {}
        for kind, made in (("plans", self.plans), ("graphs", self.graphs)):
            before = record.get(kind, {})
            said[kind] = {name: each for name, each in before.items() if each.get("source_onnx") == self._source_sha256}
            said[kind] |= made
        there = {*said["plans"], *said["graphs"]}
        said["validation"] = {name: each for name, each in record.get("validation", {}).items() if name in there}
        written = {kind: entries for kind, entries in said.items() if entries or kind == "plans"}
        write_json(self.folder / PLANS_RECORD, {"command": self.command, **written})
        self._write_log(self._earlier_log)

    def _write_log(self, before: str) -> None:
        text = before + "".join(f"{line}\n" for line in self._lines)
        replace_file(self.folder / LOG, text.encode())


class VersionFolder(PlansFolder):
    """A new version of plans or graphs, in `root`; raises `ConfigError` for a bad name."""

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
        """Write everything else, make it durable, and give it its name."""
        beside = self.source.folder or self.source.onnx.parent
        if not (self.folder / "model.onnx").is_file():
            self._write_source(self.folder / "model.onnx")
        for name in COPIED:
            if (beside / name).is_file():
                copy_file(beside / name, self.folder / name)
        self._write_log(self._earlier(LOG))
        self.folder = self._new.publish(self.source.manifest or {}, self._info())
        return {"folder": str(self.folder), **self._made()}

    def abandon(self) -> None:
        """Remove the hidden folder, unless it has been given its name."""
        self._new.abandon()

    def _take_off_record(self, precision: str, *kinds: str) -> None:
        """Nobody reads a hidden folder's record."""

    def _put_on_record(self) -> None:
        """It is written with everything else."""

    def _info(self) -> dict[str, Any]:
        said = self._earlier("conversion_info.json")
        before = msgspec.json.decode(said, type=dict[str, Any]) if said else {}
        for key in ("validation", "graphs"):  # verdicts and graphs of files that this version does not hold
            before.pop(key, None)
        return {
            **before,
            "source": {"path": str(self.source.onnx), "sha256": self._source_sha256},
            "command": self.command,
            "toolchain": installed_packages(),
            "plans": {},
            **self._made(),
        }

    def _earlier(self, name: str) -> str:
        """The text of a file of the version that this one is made from."""
        path = self.source.folder / name if self.source.folder else None
        return path.read_text(encoding="utf-8") if path and path.is_file() else ""


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


def graph_entry(made: MadeGraph, about: dict[str, Any], path: Path, source_sha256: str) -> dict[str, Any]:
    """What the record says of a graph for ONNX Runtime: how it was made, and what stayed in float32."""
    return {
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


def _read(record: Path) -> dict[str, dict[str, Any]]:
    """A record of earlier builds; empty where there is none, or one that nobody can read."""
    try:
        return msgspec.json.decode(record.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return {}


def _without(entries: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if key != name}


def _buckets(settings: BuildSettings) -> list[int]:
    """The batch sizes to run a plan with: its static profiles, and those that a dynamic one takes."""
    sizes: set[int] = set()
    for each in settings.profiles:
        usual = {size for size in DEFAULT_BUCKETS if each.minimum <= size <= each.maximum}
        static = each.minimum == each.maximum
        sizes |= {each.minimum} if static else usual | {each.minimum, each.optimum, each.maximum}
    return sorted(sizes)


def installed_packages() -> dict[str, str]:
    """The versions of the packages that a record tells of, as far as they are installed."""
    found = {}
    for package in RECORDED_PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
