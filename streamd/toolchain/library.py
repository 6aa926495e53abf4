"""The seam between TensorRT's versions (8.6, 10, 11): what each has, asked in one place.

Members are asked for by name and never by number, since the numbers differ between versions.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from typing import Any

from streamd.core.errors import BackendUnavailableError, BuildError
from streamd.repository.plans import Machine

SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


@dataclass(frozen=True)
class TensorRt:
    """An installed TensorRT with a builder."""

    module: Any

    @property
    def version(self) -> str:
        """As `8.6.1`."""
        return str(self.module.__version__)

    @property
    def major(self) -> int:
        """As 8."""
        return int(self.version.split(".", 1)[0])

    @property
    def strongly_typed(self) -> bool:
        """Whether a network can take every tensor's type from the graph."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def has_bfloat16(self) -> bool:
        """Whether it knows bfloat16."""
        return hasattr(self.module.DataType, "BF16")

    def network_flags(self, *, strongly_typed: bool) -> int:
        """The flags of a network with an explicit batch axis, which is the only kind where there is no flag for it."""
        names = ["EXPLICIT_BATCH"] + (["STRONGLY_TYPED"] if strongly_typed else [])
        flags = self.module.NetworkDefinitionCreationFlag
        members = [getattr(flags, name) for name in names if hasattr(flags, name)]
        return reduce(lambda bits, member: bits | 1 << int(member), members, 0)

    def builder_flag(self, name: str, use: str) -> Any:
        """A builder flag; raises `BuildError` where this version does not have it, saying what for."""
        if not hasattr(self.module.BuilderFlag, name):
            raise BuildError(f"TensorRT {self.version} has no builder flag {name}, which {use} needs")
        return getattr(self.module.BuilderFlag, name)

    def share_profiles(self, config: Any) -> None:
        """Let several contexts use one profile at a time: asked for in 8, the only way in 10 and later."""
        feature = getattr(getattr(self.module, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
        if feature is not None and self.major < 10:
            config.set_preview_feature(feature, True)

    def make_logger(self, tell: Callable[[str], None] | None = None, *, verbose: bool = False) -> Any:
        """A logger that keeps TensorRT's errors in `errors` and warnings in `warnings`; `tell` gets the lines."""
        module = self.module

        class CollectingLogger(module.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
            def __init__(self) -> None:
                super().__init__()
                self.errors: list[str] = []
                self.warnings: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                level = int(severity)
                if level <= int(module.ILogger.Severity.ERROR):
                    self.errors.append(message)
                elif level == int(module.ILogger.Severity.WARNING):
                    self.warnings.append(message)
                if tell is not None and (verbose or level < len(SEVERITIES) - 1):
                    tell(f"TensorRT {SEVERITIES[level].lower()}: {message}")

        return CollectingLogger()


def probe_machine() -> Machine | None:
    """What plans must fit here: the first GPU and the TensorRT that would load them; None where either is missing."""
    from streamd.device import cuda

    if not cuda.device_count():
        return None
    for name in ("tensorrt", "tensorrt_lean"):
        with suppress(ImportError, OSError, RuntimeError):
            version = str(importlib.import_module(name).__version__)
            return Machine(cuda.device_name(0), cuda.compute_capability(0), version, lean=name != "tensorrt")
    return None


def load_tensorrt() -> TensorRt:
    """The installed TensorRT, with a usable device; raises `BackendUnavailableError` with the way out."""
    from streamd.device import cuda

    # First, since TensorRT's own objects crash the process where there is no driver.
    if not cuda.device_count():
        raise BackendUnavailableError(f"building a plan needs a CUDA device: {cuda.why_no_device()}")
    try:
        import tensorrt
    except ImportError as exc:
        raise BackendUnavailableError(
            f"building a plan needs the package tensorrt ({exc}): pip install 'streamd[build,tensorrt]'"
        ) from exc
    if not hasattr(tensorrt, "Builder"):
        raise BackendUnavailableError(f"tensorrt {tensorrt.__version__} has no builder (lean or dispatch runtime only)")
    return TensorRt(tensorrt)
