"""The memory that this process really uses."""

import gc
import os
from pathlib import Path

import pytest

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Collect garbage and return the size of the resident set; skips the test if the system does not report it."""
    if not _STATM.exists():
        pytest.skip("no /proc/self/statm here")
    gc.collect()
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
