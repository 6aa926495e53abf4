"""The schema of a version's `conversion_info.json` and of `plans.json`, which stands beside plans in a plain folder.

Readers decode into these types, and writers check their entries against them. Opens no file.
"""

from typing import Annotated, Any

import msgspec

VERSION_RECORD = "conversion_info.json"
"""The record of a version: how it was made, the hash of each file, and the verdicts of the accuracy gate."""

PLANS_RECORD = "plans.json"
"""The record that `streamd engine build --plans-only` writes beside its plans."""

PLAN_SUFFIX = ".engine"
"""The end of the name of each file with a TensorRT plan."""

EXACT_PRECISION = "fp32"
"""The precision of every version's `model.onnx`.

A plan in it that uses no TF32 needs no verdict: it computes what the graph was checked for when it was exported.
"""

BucketSize = Annotated[int, msgspec.Meta(ge=1)]


class PlanInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The entry of one plan: its file, and the machine and batch sizes that it was built for."""

    file: str
    gpu: str
    compute_capability: str
    tensorrt: str
    buckets: tuple[BucketSize, ...]
    version_compatible: bool = False
    preferred: bool = False
    tf32: bool = False


class FolderPlanInfo(PlanInfo, frozen=True, kw_only=True):
    """The entry of a plan in a plain folder, with the SHA-256 of the graph that it was built from."""

    source_onnx: str = ""


class GraphInfo(msgspec.Struct, frozen=True):
    """The entry of one graph in a lower precision, which ONNX Runtime runs as it is."""

    file: str


class RecordedVerdict(msgspec.Struct, frozen=True):
    """The verdict of the accuracy gate on one precision; `promotable` is `None` if the gate gave no verdict."""

    promotable: bool | None = None
    reasons: tuple[str, ...] = ()


class ConversionInfo(msgspec.Struct, frozen=True):
    """The keys of `conversion_info.json` that are read here; the tools write others too.

    The raw parts are decoded when they are needed: a damaged list of plans must not keep the graph from serving.
    """

    sha256: dict[str, str] = {}
    plans: msgspec.Raw = msgspec.Raw(b"{}")
    graphs: msgspec.Raw = msgspec.Raw(b"{}")
    validation: msgspec.Raw = msgspec.Raw(b"{}")


class PlansRecord(msgspec.Struct, frozen=True):
    """The keys of `plans.json` that are read here; the tools write others too."""

    plans: dict[str, FolderPlanInfo] = {}
    validation: dict[str, RecordedVerdict] = {}


def check_entry(entry: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the entry of a record as it is; raises `msgspec.ValidationError` if readers could not decode it."""
    msgspec.convert(entry, kind)
    return entry
