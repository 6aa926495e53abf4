"""Three tiny kernels in PTX that measure or provoke: no compiler is needed, the driver assembles them.

`stamp` keeps the GPU busy for a while and then writes its clock to host memory; `ping` answers the host with its clock;
`crash` writes to an invalid address. Not measured: throughput.
"""

import ctypes
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from streamd.core.state.layout import make_scalar_view
from streamd.inference import cuda
from streamd.inference.cuda import HostBuffer, Stream

PTX = """
.version 7.0
.target sm_70
.address_size 64

.visible .entry stamp(.param .u64 p_out, .param .u64 p_busy_ns)
{
    .reg .u64 %out, %busy, %now, %end;
    .reg .pred %more;
    ld.param.u64 %out, [p_out];
    ld.param.u64 %busy, [p_busy_ns];
    mov.u64 %now, %globaltimer;
    add.u64 %end, %now, %busy;
SPIN:
    mov.u64 %now, %globaltimer;
    setp.lt.u64 %more, %now, %end;
    @%more bra SPIN;
    st.volatile.global.u64 [%out], %now;
    membar.sys;
    ret;
}

.visible .entry ping(.param .u64 p_flag, .param .u64 p_out, .param .u64 p_count, .param .u64 p_limit_ns)
{
    .reg .u64 %flag, %out, %count, %limit, %number, %seen, %now, %end;
    .reg .pred %here, %late, %more;
    ld.param.u64 %flag, [p_flag];
    ld.param.u64 %out, [p_out];
    ld.param.u64 %count, [p_count];
    ld.param.u64 %limit, [p_limit_ns];
    mov.u64 %number, 1;
NEXT:
    mov.u64 %now, %globaltimer;
    add.u64 %end, %now, %limit;
WAIT:
    ld.volatile.global.u64 %seen, [%flag];
    mov.u64 %now, %globaltimer;
    setp.ge.u64 %here, %seen, %number;
    @%here bra SEEN;
    setp.gt.u64 %late, %now, %end;
    @%late bra DONE;
    bra WAIT;
SEEN:
    st.volatile.global.u64 [%out], %now;
    membar.sys;
    st.volatile.global.u64 [%out+8], %number;
    add.u64 %number, %number, 1;
    setp.le.u64 %more, %number, %count;
    @%more bra NEXT;
DONE:
    ret;
}

.visible .entry crash(.param .u64 p_where)
{
    .reg .u64 %where;
    .reg .u32 %value;
    ld.param.u64 %where, [p_where];
    mov.u32 %value, 1;
    st.global.u32 [%where], %value;
    ret;
}
"""

NOWHERE = 0x10
"""An address that is in no allocation."""

PINGS = 400
PING_LIMIT_NS = 2_000_000_000


class Kernels:
    """The kernels on this thread's device."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        self._driver = driver
        cuda.call("cudaFree", 0)  # Makes the device's context, which the driver's calls then use.
        self._module = self._call("cuModuleLoadData", PTX.encode() + b"\0")
        self._functions = {
            name: self._call("cuModuleGetFunction", self._module, name.encode()) for name in ("stamp", "ping", "crash")
        }

    def launch(self, name: str, stream: Stream, *numbers: int) -> None:
        """Launch one thread of a kernel on a stream; every parameter is a 64-bit number."""
        parameters = (tuple(numbers), (ctypes.c_uint64,) * len(numbers))
        self._call("cuLaunchKernel", self._functions[name], 1, 1, 1, 1, 1, 1, 0, stream.handle, parameters, 0)

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._driver, name)(*arguments)
        if int(error):
            raise RuntimeError(f"{name}: {error.name} ({int(error)})")
        return values[0] if values else None


@dataclass(frozen=True)
class Clock:
    """The offset from the GPU's clock to `time.perf_counter_ns`; it is exact to `uncertainty_ns`."""

    offset_ns: int
    uncertainty_ns: int
    resolution_ns: int
    """The smallest step of the GPU's clock that was observed."""

    at_ns: int
    """The time of the comparison, by the host's clock."""


def convert_to_host_ns(first: Clock, last: Clock, gpu_ns: int) -> float:
    """Convert a time of the GPU's clock to the host's, between two comparisons.

    The offset is interpolated, because the clocks drift by microseconds a second.
    """
    host_ns = gpu_ns + first.offset_ns
    share = (host_ns - first.at_ns) / max(last.at_ns - first.at_ns, 1)
    return host_ns + share * (last.offset_ns - first.offset_ns)


def calibrate(kernels: Kernels, stream: Stream, pings: int = PINGS) -> Clock:
    """Compare both clocks by pings: the GPU reads its clock between two readings of the host's clock.

    Each ping bounds the offset from both sides. After Cristian, "Probabilistic clock synchronization" (1989), with the
    bounds of all pings intersected.
    """
    with HostBuffer(24) as shared:
        cells = shared.array(np.uint64, (3,))
        cells[:] = 0
        words = make_scalar_view(cells)
        kernels.launch("ping", stream, shared.pointer, shared.pointer + 8, pings, PING_LIMIT_NS)
        low, high, stamps = -(2**62), 2**62, []
        clock = time.perf_counter_ns
        for number in range(1, pings + 1):
            sent = clock()
            words[0] = number
            while words[2] != number:
                if clock() - sent > PING_LIMIT_NS:
                    raise RuntimeError("the GPU does not answer pings through host memory")
            seen = clock()
            stamp = words[1]
            stamps.append(stamp)
            low, high = max(low, sent - stamp), min(high, seen - stamp)
        stream.synchronize()
    steps = [later - earlier for earlier, later in pairwise(stamps) if later > earlier]
    return Clock((low + high) // 2, abs(high - low) // 2, min(steps, default=0), clock())
