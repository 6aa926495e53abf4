"""Checks of the machine: processor, limits of the process, and clock."""

import ctypes
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from streamd.regular_files import read_regular
from streamd.server.config import ServerSection
from streamd.server.doctor.findings import Finding, make_error, make_ok, make_warning

SPARE_DESCRIPTORS = 256
"""Descriptors that the daemon needs beside its sockets: files, libraries, requests of probes."""

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")

STA_UNSYNC, TIME_ERROR = 0x0040, 5
"""From <sys/timex.h>: the clock is not synchronized, in the status and in the result of adjtimex(2)."""

MAX_CLOCK_ERROR_SECONDS = 1.0
"""The error that the kernel may estimate for a clock that counts as synchronized."""


def check_processor(proc: Path = PROC, cgroup: Path = CGROUP) -> Iterator[Finding]:
    """Report the cores that may be used, and the vector instructions that inference is fast with."""
    cores = len(os.sched_getaffinity(0))
    quota = read_core_quota(cgroup)
    if quota is not None and quota < cores:
        yield make_warning(
            "cpu",
            f"{cores} cores, of which the control group allows {quota:g}",
            "set `lanes` in [engine] to the cores that are allowed, plus 1, or raise CPUQuota=",
        )
    flags = read_processor_flags(proc)
    if flags and "avx2" not in flags:
        yield make_warning(
            "cpu",
            f"{cores} cores without AVX2",
            "inference on it is several times slower; in a virtual machine, pass the host's processor through",
        )
    else:
        features = [name for name in ("avx2", "avx512f", "amx_tile") if name in flags]
        yield make_ok("cpu", f"{cores} cores, {' '.join(features) or 'features unknown'}")


def read_processor_flags(proc: Path = PROC) -> frozenset[str]:
    """Return the features that the kernel lists for the first core; empty on processors without such a list."""
    try:
        lines = read_regular(proc / "cpuinfo").decode(errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(found.partition(":")[2].split())


def read_core_quota(cgroup: Path = CGROUP) -> float | None:
    """Return the cores that the control group of a container allows; `None` without a quota."""
    try:
        quota, _, period = read_regular(cgroup / "cpu.max").decode().strip().partition(" ")
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def check_descriptors(settings: ServerSection) -> Iterator[Finding]:
    """Compare the limit of open files with the sockets that the settings allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_sockets + SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        yield make_warning(
            "limits",
            f"{soft} open files are allowed here, fewer than max_sockets + {SPARE_DESCRIPTORS} = {needed}",
            f"LimitNOFILE={needed} in the unit (the shipped one has 65536), `ulimit -n {min(needed, hard)}` in a "
            "shell, or a smaller max_sockets",
        )
    else:
        yield make_ok("limits", f"{soft} open files are allowed here, {needed} may be needed")


# ---------------------------------------------------------------- clock
class _Timex(ctypes.Structure):
    """The head of `struct timex`; the rest is padding that the kernel may write."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("padding", ctypes.c_char * 256),
    )


def read_clock() -> tuple[bool, float]:
    """Return whether the kernel's clock is synchronized, and its largest error in seconds. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    timex = _Timex()  # modes = 0: nothing is adjusted
    result = libc.adjtimex(ctypes.byref(timex))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    is_synchronized = result != TIME_ERROR and not timex.status & STA_UNSYNC
    return is_synchronized, timex.maxerror / 1e6


def check_clock() -> Iterator[Finding]:
    """Report whether the clock is synchronized: samples ahead of it are rejected, and steps begin by it."""
    remedy = "start chrony or systemd-timesyncd (`timedatectl set-ntp true`); in a container, on the host"
    try:
        is_synchronized, error_seconds = read_clock()
    except (OSError, AttributeError) as exc:
        yield make_warning("clock", f"the kernel does not report whether it is synchronized: {exc}", remedy)
        return
    if not is_synchronized:
        yield make_warning("clock", "it is not synchronized", remedy)
    elif error_seconds > MAX_CLOCK_ERROR_SECONDS:
        yield make_warning("clock", f"it may be wrong by {error_seconds:.1f} s", remedy)
    else:
        yield make_ok("clock", f"synchronized, wrong by {error_seconds * 1e3:.0f} ms at most")


def check_state_memory(capacity: int, slot_bytes: int, proc: Path = PROC) -> Iterator[Finding]:
    """Compare the memory of this machine with the windows and forecasts of all servers that the settings allow."""
    needed = capacity * slot_bytes
    total = read_total_memory_bytes(proc)
    if total is None:
        yield make_warning("memory", "the kernel does not report it", "mount /proc")
    elif needed > total:
        yield make_error(
            "memory",
            f"{needed / 2**30:.1f} GiB for max_servers = {capacity}, and the machine has {total / 2**30:.1f} GiB",
            f"max_servers = {int(0.5 * total / slot_bytes)} or less, or more memory",
        )
    else:
        yield make_ok("memory", f"{needed / 2**30:.1f} of {total / 2**30:.1f} GiB if all {capacity} servers report")


def read_total_memory_bytes(proc: Path = PROC) -> int | None:
    """Return the memory of this machine; `None` if the kernel does not report it."""
    try:
        lines = read_regular(proc / "meminfo").decode().splitlines()
        return next(int(line.split()[1]) * 1_024 for line in lines if line.startswith("MemTotal:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
