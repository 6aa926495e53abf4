"""CUDA through cuda-python: checked calls, devices, and owners of memory, streams, events and graphs.

Knows nothing of networks or lanes.
"""

from streamd.inference.cuda.devices import (
    check_devices,
    count_devices,
    count_live,
    explain_no_device,
    get_compute_capability,
    get_device_name,
    get_memory_bytes,
    is_broken,
    is_unrecoverable,
    make_unusable_error,
    note_held,
    note_released,
    revive,
    use_device,
)
from streamd.inference.cuda.driver import BoundKernel, Kernel, KernelModule, call_driver, read_ptx
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
    "BoundKernel",
    "CudaError",
    "CudaGraph",
    "DeviceBuffer",
    "Event",
    "HostBuffer",
    "Kernel",
    "KernelModule",
    "Stream",
    "call",
    "call_driver",
    "check_devices",
    "copy_to_device",
    "copy_to_host",
    "count_devices",
    "count_live",
    "explain_no_device",
    "get_compute_capability",
    "get_device_name",
    "get_memory_bytes",
    "is_broken",
    "is_unrecoverable",
    "make_unusable_error",
    "note_held",
    "note_released",
    "read_ptx",
    "revive",
    "use_device",
]
