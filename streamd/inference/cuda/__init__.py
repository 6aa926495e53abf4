"""CUDA through cuda-python: a checked funnel, devices, and owners of what they lend.

Nothing here knows what the memory is for.
"""

from streamd.inference.cuda.devices import (
    check_devices,
    compute_capability,
    device_count,
    device_name,
    hold,
    is_broken,
    is_unrecoverable,
    live,
    memory_bytes,
    release_device,
    revive,
    unusable,
    use_device,
    why_no_device,
)
from streamd.inference.cuda.owners import (
    CudaGraph,
    DeviceBuffer,
    Event,
    HostBuffer,
    Stream,
    copy_to_device,
    copy_to_host,
)
from streamd.inference.cuda.runtime import STICKY, CudaError, call

__all__ = [
    "STICKY",
    "CudaError",
    "CudaGraph",
    "DeviceBuffer",
    "Event",
    "HostBuffer",
    "Stream",
    "call",
    "check_devices",
    "compute_capability",
    "copy_to_device",
    "copy_to_host",
    "device_count",
    "device_name",
    "hold",
    "is_broken",
    "is_unrecoverable",
    "live",
    "memory_bytes",
    "release_device",
    "revive",
    "unusable",
    "use_device",
    "why_no_device",
]
