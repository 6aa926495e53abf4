"""The seam between the builders of TensorRT's versions (8.6, 10, 11): what each has, asked in one place.

Members are asked for by name and never by number, since the numbers differ between versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

from streamd.core.errors import BackendUnavailableError, BuildError
from streamd.inference import cuda
from streamd.inference.tensorrt.library import TensorRtLibrary, load_tensorrt
from streamd.repository.plans import Machine


@dataclass(frozen=True)
class TensorRt:
    """An installed TensorRT with a builder."""

    installed: TensorRtLibrary

    @property
    def module(self) -> Any:
        """The package."""
        return self.installed.module

    @property
    def version(self) -> str:
        """As `8.6.1`."""
        return self.installed.version

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
        if feature is not None and self.installed.generation < 10:
            config.set_preview_feature(feature, True)


def probe_machine() -> Machine | None:
    """What plans must fit here: the first GPU and the TensorRT that would load them; None where either is missing."""
    try:
        library = load_tensorrt()
    except BackendUnavailableError:
        return None
    return Machine(cuda.device_name(0), cuda.compute_capability(0), library.version, lean=library.lean)


def load_builder() -> TensorRt:
    """The installed TensorRT, with a usable device; raises `BackendUnavailableError` with the way out."""
    try:
        library = load_tensorrt()
    except BackendUnavailableError as exc:
        raise BackendUnavailableError(f"building a plan needs a CUDA device and TensorRT: {exc}") from exc
    if not hasattr(library.module, "Builder"):
        raise BackendUnavailableError(
            f"{library.module.__name__} {library.version} has no builder (lean or dispatch runtime only): "
            "pip install 'streamd[build,tensorrt]'"
        )
    return TensorRt(library)
