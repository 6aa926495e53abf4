"""Puts the files of `streamd demo` into the wheel: they are in the checkout, outside of the package.

Everything else about the package is in `pyproject.toml`.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
DATA = Path("streamd/tools/loadtest/shipped_data")
ENGINE = Path("engines/patch_tensorrt_20261129_232000")
"""The default version, whole: a version is sealed, and one that lacks a file is refused."""
FLEET = Path("examples/fleet")


class BuildWithDemo(build_py):
    """Copies the default engine version and the recorded fleet, with their licences, beside the built modules."""

    def run(self) -> None:
        """Build as usual, then copy; an editable install finds the files in the checkout."""
        super().run()
        if not self.editable_mode:
            for source in self._list_files():
                target = Path(self.build_lib) / DATA / source
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / source, target)

    @staticmethod
    def _list_files() -> list[Path]:
        folders = (ENGINE, FLEET)
        return [path.relative_to(ROOT) for folder in folders for path in sorted((ROOT / folder).iterdir())]


setup(cmdclass={"build_py": BuildWithDemo})
