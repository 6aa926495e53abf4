"""Tests `streamd/server/memory.py`: freed memory is returned to the system, and that of a batch is kept."""

import platform
import subprocess
import sys

import pytest

from streamd.server.memory import LARGE_BYTES, configure_malloc
from tests.support.daemon_process import ROOT, make_environment

HELD = """
import os, sys
from streamd.server import memory
def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
if sys.argv[1] == "configured":
    assert memory.configure_malloc()
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
size = 24 * 2**20
libc.free(libc.malloc(size))  # from this, glibc learns that such blocks are short-lived
large, beside = libc.malloc(size), libc.malloc(4096)
ctypes.memset(large, 1, size)
before = resident_bytes()
libc.free(large)
print(before - resident_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator")
def test_a_freed_large_block_is_returned_whatever_lies_beside_it() -> None:
    returned = {}
    for setting in ("configured", "default"):
        command = [sys.executable, "-c", HELD, setting]
        ran = subprocess.run(command, cwd=ROOT, env=make_environment({}), capture_output=True, text=True, check=True)
        returned[setting] = int(ran.stdout)
    assert returned["configured"] >= LARGE_BYTES
    assert returned["default"] < LARGE_BYTES, "with the default there is a difference to make"


SMALL = """
import os
from streamd.server import memory
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
memory.configure_malloc()
blocks = [libc.malloc(20_000) for _ in range(2_000)]
for block in blocks:
    ctypes.memset(block, 1, 20_000)
beside = libc.malloc(20_000)  # it lies behind them, so that they are not the heap's end
for block in blocks:
    libc.free(block)
before = resident_bytes()
assert memory.trim_heap()
print(before - resident_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator")
def test_trim_heap_returns_freed_small_blocks() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SMALL], cwd=ROOT, env=make_environment({}), capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) > 30 * 2**20, "40 MB were freed"


def test_a_threshold_in_the_environment_is_kept() -> None:
    assert not configure_malloc({"MALLOC_MMAP_THRESHOLD_": "1"})


FAULTS = """
import ctypes, resource
from streamd.server import memory
assert memory.configure_malloc()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def use():
    block = libc.malloc(300_000)  # the size of the forecasts of a batch
    ctypes.memset(block, 1, 300_000)
    libc.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator")
def test_the_memory_of_a_batch_is_not_returned_and_faulted_in_again() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=ROOT, env=make_environment({}), capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 100, "300 kB are 74 pages"
