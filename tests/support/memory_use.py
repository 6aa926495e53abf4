"""How much memory this process really has."""

import gc
import os
from pathlib import Path

import pytest

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """The resident set, garbage collected first; skips the test where the system does not tell."""
    if not _STATM.exists():
        pytest.skip("no /proc/self/statm here")
    gc.collect()
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
