"""Builds a serialized TensorRT plan from a graph: parser, profiles, flags, pinned layers, timing cache.

This module decides no precision; `maker` does. Every refusal becomes a `BuildError` with TensorRT's own reasons.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from streamd.core.errors import BuildError
from streamd.inference.tensorrt.plan_file import describe_stage, pack_stages
from streamd.tools.engine.flags import DEFAULT_WORKSPACE_BYTES
from streamd.tools.engine.graph.onnx_graph import OnnxModel, Signature, serialize_graph
from streamd.tools.engine.plan.library import TensorRt
from streamd.tools.engine.plan.monitor import make_monitor
from streamd.tools.engine.plan.pins import pin_layers
from streamd.tools.engine.progress import Progress


@dataclass(frozen=True, slots=True)
class Profile:
    """The batch sizes of one optimisation profile: the smallest, the one it is tuned for, the largest."""

    minimum: int
    optimum: int
    maximum: int

    @classmethod
    def static(cls, bucket: int) -> Self:
        """Return a profile of one batch size: only such a profile can be captured into a CUDA graph for any network."""
        return cls(bucket, bucket, bucket)


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Settings of a build that hold for every precision."""

    profiles: tuple[Profile, ...]
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES
    timing_cache: Path | None = None
    version_compatible: bool = False
    tf32: bool = False
    optimization_level: int | None = None


@dataclass(frozen=True, kw_only=True)
class PlanGraph:
    """The graph from which one plan is built, and how TensorRT takes it."""

    model: OnnxModel
    signature: Signature
    strongly_typed: bool
    """Whether the graph alone determines the type of each tensor."""

    flags: tuple[str, ...] = ()
    """`FP16` and `INT8` allow lower precision in a graph that is not strongly typed."""

    pinned: tuple[str, ...] = ()
    """Names of the nodes that stay in float32 in a graph that is not strongly typed."""


@dataclass(frozen=True, kw_only=True)
class BuiltPlan:
    """A serialized plan with its measurements."""

    content: Any
    """TensorRT's own memory, readable as bytes. It is never copied here."""

    seconds: float
    layers: int
    pinned_layers: int
    warnings: tuple[str, ...] = field(default=())


class PlanBuilder:
    """Builds plans with one TensorRT.

    `log` is called with each line of TensorRT's log; the lines for debugging are among them if `verbose` is true.
    """

    def __init__(
        self,
        library: TensorRt,
        settings: BuildSettings,
        progress: Progress | None = None,
        log: Callable[[str], None] | None = None,
        *,
        verbose: bool = False,
    ) -> None:
        self.library, self.trt = library, library.module
        self.settings = settings
        self.progress = progress or Progress(quiet=True)
        self._log, self._verbose = log, verbose
        self._warnings: list[str] = []

    def report(self, text: str) -> None:
        """Print a line with the progress, and write it to the log."""
        self.progress.print_line(text)
        if self._log is not None:
            self._log(text)

    def build_plan(self, graph: PlanGraph, name: str) -> BuiltPlan:
        """Build one plan; blocks for minutes with the GIL released. Raises `BuildError`."""
        with self.library.installed.redirect_messages(self._take_message):
            return self._build(graph, name)

    def build_stages(self, graphs: Sequence[PlanGraph], name: str) -> BuiltPlan:
        """Build a plan for each stage, and return one content that holds all of them; raises `BuildError`."""
        plans = []
        for index, graph in enumerate(graphs):
            stage = describe_stage(index, len(graphs))
            plans.append(self.build_plan(graph, f"{name}, {stage}" if stage else name))
        if len(plans) == 1:
            return plans[0]
        return BuiltPlan(
            content=pack_stages([memoryview(plan.content).cast("B") for plan in plans]),
            seconds=sum(plan.seconds for plan in plans),
            layers=sum(plan.layers for plan in plans),
            pinned_layers=sum(plan.pinned_layers for plan in plans),
            warnings=tuple(warning for plan in plans for warning in plan.warnings),
        )

    def _build(self, graph: PlanGraph, name: str) -> BuiltPlan:
        self.library.installed.errors.clear()
        self._warnings.clear()
        began = time.monotonic()
        logger = self.library.installed.logger
        builder = self.trt.Builder(logger)
        network = builder.create_network(self.library.make_network_flags(strongly_typed=graph.strongly_typed))
        parser = self.trt.OnnxParser(network, logger)
        self._parse(parser, graph.model, name)
        config = self._configure(builder, graph)
        pinned = pin_layers(self.library, network, graph.pinned, _node_names(graph.model)) if graph.pinned else 0
        cache = self._use_timing_cache(config)
        monitor = make_monitor(self.library, self.progress, name)
        if monitor is not None:
            config.progress_monitor = monitor
        else:
            self.progress.print_line(
                f"{name}: building takes minutes; TensorRT {self.library.version} reports no progress"
            )
        content = builder.build_serialized_network(network, config)
        if monitor is not None:
            monitor.finish()
        if content is None:
            raise BuildError(f"{name}: TensorRT {self.library.version} built no plan: {self._reasons()}")
        self._write_timing_cache(config, cache)
        return BuiltPlan(
            content=content,
            seconds=time.monotonic() - began,
            layers=network.num_layers,
            pinned_layers=pinned,
            warnings=tuple(self._warnings),
        )

    def _take_message(self, severity: str, message: str) -> None:
        if severity == "warning":
            self._warnings.append(message)
        if self._log is not None and (self._verbose or severity != "verbose"):
            self._log(f"TensorRT {severity}: {message}")

    def _parse(self, parser: Any, model: OnnxModel, name: str) -> None:
        if parser.parse(serialize_graph(model, name)):
            return
        reasons = []
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            # Only later versions give the node's name; earlier ones give its number.
            node = _read_optional(error, "node_name") or f"number {error.node()}"
            operator = _read_optional(error, "node_operator")
            reasons.append(f"node {node}{f' ({operator})' if operator else ''}: {error.desc()}")
        raise BuildError(f"{name}: the parser of TensorRT {self.library.version} refused the graph: "
                         f"{'; '.join(reasons) or self._reasons()}")  # fmt: skip

    def _configure(self, builder: Any, graph: PlanGraph) -> Any:
        settings, flag = self.settings, self.library.get_builder_flag
        config = builder.create_builder_config()
        config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
        if settings.optimization_level is not None:
            config.builder_optimization_level = settings.optimization_level
        if not settings.tf32 and hasattr(self.trt.BuilderFlag, "TF32"):
            config.clear_flag(flag("TF32", "float32"))  # TensorRT sets it by default.
        for name in graph.flags:
            config.set_flag(flag(name, "a graph whose types the builder chooses"))
        if graph.pinned:
            config.set_flag(flag("OBEY_PRECISION_CONSTRAINTS", "keeping nodes in float32"))
        if settings.version_compatible:
            config.set_flag(flag("VERSION_COMPATIBLE", "a plan for later versions"))
            config.set_flag(flag("EXCLUDE_LEAN_RUNTIME", "a plan without the runtime in it"))
        self.library.share_profiles(config)
        for sizes in settings.profiles:
            self._add_profile(builder, config, graph.signature, sizes)
        return config

    def _add_profile(self, builder: Any, config: Any, signature: Signature, sizes: Profile) -> None:
        profile = builder.create_optimization_profile()
        for spec in signature.inputs:
            shapes = [(size, *spec.shape) for size in (sizes.minimum, sizes.optimum, sizes.maximum)]
            profile.set_shape(spec.name, *shapes)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"profile {sizes}: TensorRT {self.library.version} refused it: {self._reasons()}")

    def _use_timing_cache(self, config: Any) -> Any:
        """Give the builder the timings of earlier builds; replace an unreadable or foreign cache by an empty one."""
        path = self.settings.timing_cache
        if path is None:
            return None
        content = path.read_bytes() if path.is_file() else b""
        cache = config.create_timing_cache(content)
        if content and (cache is None or not config.set_timing_cache(cache, False)):
            self.report(f"{path}: a timing cache of another TensorRT or device; starting with an empty one")
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        elif not content:
            config.set_timing_cache(cache, False)
        return cache

    def _write_timing_cache(self, config: Any, cache: Any) -> None:
        """Replace the file of timings by that of this build; a file that cannot be written is only reported."""
        path = self.settings.timing_cache
        if cache is None or path is None:
            return
        current = config.get_timing_cache()
        temporary = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(memoryview((current if current is not None else cache).serialize()))
            temporary.replace(path)
        except OSError as exc:
            self.report(f"{path}: the timing cache cannot be written: {exc.strerror or exc}")
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _reasons(self) -> str:
        return self.library.installed.take_last_error()


def _node_names(model: OnnxModel) -> Iterable[str]:
    return (node.name for node in model.graph.node)


def _read_optional(error: Any, name: str) -> str:
    """Return what a method of a parser's error returns, or an empty string if this version lacks the method."""
    method = getattr(error, name, None)
    return str(method()) if method is not None else ""
