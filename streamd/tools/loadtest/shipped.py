"""Finds the files of the demo: an engine version and a recorded fleet.

A wheel has them as package data (`setup.py` puts them there); in a checkout they are in `engines/` and `examples/`.
"""

from dataclasses import dataclass
from pathlib import Path

from streamd.tools.loadtest.errors import UsageError
from streamd.tools.loadtest.options import EXAMPLE_FLEET

PACKAGE_DATA = Path(__file__).parent / "shipped_data"
CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class ShippedFiles:
    """The folder of engine versions, and the recorded fleet."""

    engines: Path
    fleet: Path


def find_shipped_files(package_data: Path = PACKAGE_DATA, checkout: Path = CHECKOUT) -> ShippedFiles:
    """Return the files of the demo; raises `UsageError` naming the places where they are not."""
    for root in (package_data, checkout):
        files = ShippedFiles(root / "engines", root / EXAMPLE_FLEET)
        if files.engines.is_dir() and files.fleet.is_file():
            return files
    raise UsageError(f"the files of the demo are neither in {package_data} nor in {checkout}: install the wheel again")
