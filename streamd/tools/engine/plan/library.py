"""Differences between the builders of TensorRT's versions (8.6, 10, 11), in one place.

Members are looked up by name and never by number, because the numbers differ between versions.
"""

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
        """Return the imported package."""
        return self.installed.module

    @property
    def version(self) -> str:
        """Return the version, such as `8.6.1`."""
        return self.installed.version

    @property
    def strongly_typed(self) -> bool:
        """Whether a network can take the type of every tensor from the graph."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def has_bfloat16(self) -> bool:
        """Whether it knows bfloat16."""
        return hasattr(self.module.DataType, "BF16")

    def make_network_flags(self, *, strongly_typed: bool) -> int:
        """Return the flags of a network with an explicit batch axis; versions without that flag know no other kind."""
        names = ["EXPLICIT_BATCH"] + (["STRONGLY_TYPED"] if strongly_typed else [])
        flags = self.module.NetworkDefinitionCreationFlag
        members = [getattr(flags, name) for name in names if hasattr(flags, name)]
        return reduce(lambda bits, member: bits | 1 << int(member), members, 0)

    def get_builder_flag(self, name: str, use: str) -> Any:
        """Return a builder flag; raises `BuildError`, with the `use` of the flag, if this version does not have it."""
        if not hasattr(self.module.BuilderFlag, name):
            raise BuildError(f"TensorRT {self.version} has no builder flag {name}, which {use} needs")
        return getattr(self.module.BuilderFlag, name)

    def share_profiles(self, config: Any) -> None:
        """Let several contexts use one profile at a time: an option in 8, always so in 10 and later."""
        feature = getattr(getattr(self.module, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
        if feature is not None and self.installed.major_version < 10:
            config.set_preview_feature(feature, True)


def probe_machine() -> Machine | None:
    """Return the first GPU and the TensorRT that would load plans here, or `None` if either is missing."""
    try:
        library = load_tensorrt()
    except BackendUnavailableError:
        return None
    return Machine(cuda.get_device_name(0), cuda.get_compute_capability(0), library.version, lean=library.lean)


def load_builder() -> TensorRt:
    """Return the installed TensorRT, with a usable device; raises `BackendUnavailableError` with the remedy."""
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
