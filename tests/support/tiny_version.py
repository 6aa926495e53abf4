"""A version with the contract of the one that ships and a tiny graph, for daemons whose forecasts are not the subject.

With it a daemon starts in half the CPU time. Its graph, that of `memory_version.py`, takes a memory too.
"""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from streamd.core.contract import ModelContract
from streamd.repository.manifest import read_manifest
from streamd.repository.versions import EngineRepository
from tests.support.memory_version import make_memory_version

ENGINES = Path(__file__).parents[2] / "engines"
"""The versions that ship."""

TINY = "tiny_20260101_000000"


def read_shipped_contract() -> ModelContract:
    """Read the contract of the version that would serve, from its manifest alone."""
    name, _ = next(EngineRepository(ENGINES).list_serving_order())
    return read_manifest(ENGINES / name / "config.json").make_contract()


SHIPPED_CONTRACT = read_shipped_contract()


@cache
def get_tiny_engines() -> Path:
    """Return the folder of the tiny version, one for each process of pytest; it is made by the first call."""
    folder = Path(tempfile.mkdtemp(prefix="streamd-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_tiny_version(folder)
    return folder


def make_tiny_version(engines: Path) -> Path:
    """Make the tiny version in this folder of versions, as the one that serves unless another is promoted."""
    units = dict(SHIPPED_CONTRACT.units)
    return make_memory_version(engines, TINY, SHIPPED_CONTRACT, units=units, default=True)
