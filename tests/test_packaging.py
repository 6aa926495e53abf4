"""Tests `setup.py`: what a wheel and an sdist have, and that what a wheel has runs without the checkout."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "licenses", "streamd",
              "examples/fleet")  # fmt: skip
ENGINE = "engines/patch_tensorrt_20261129_232000"
DATA = "streamd/tools/loadtest/shipped_data"
TRACKED = ("tests", "docs", "benchmarks", "engines", "examples", "licenses", "monitoring", "scripts", "systemd", ".ci")
MAX_WHEEL_BYTES = 9 * 2**20
"""6.3 MB are the sealed version, which has its weights twice (graph, safetensors); 0.3 the fleet, 1.8 the code."""


PAGE = "streamd/web/page"
IGNORED = shutil.ignore_patterns("__pycache__", "node_modules")


def install_foreign_package(folder: Path) -> None:
    """Write files as npm does beside the sources of the page."""
    package = folder / PAGE / "node_modules" / "foreign"
    package.mkdir(parents=True)
    for name in ("index.js", "index.ts", "settings.toml", "package.json"):
        (package / name).touch()


def run_backend(folder: Path, call: str) -> str:
    """Run a call of the build backend in a folder and return the name of what it built."""
    code = f"from setuptools import build_meta; print(); print(build_meta.{call})"
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy: a build in the checkout would leave its files there."""
    folder = tmp_path_factory.mktemp("source")
    for name in (*BUILT_FROM, ENGINE):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=IGNORED)
        else:
            shutil.copyfile(source, target)
    install_foreign_package(folder)
    return folder / "dist" / run_backend(folder, "build_wheel('dist')")


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_a_wheel_has_every_module_and_nothing_else(names: set[str], wheel: Path) -> None:
    source = wheel.parents[1]
    suffixes = ("py", "toml", "cu", "ptx")
    data = {path for suffix in suffixes for path in (source / "streamd").rglob(f"*.{suffix}")}
    data = {path for path in data if not path.is_relative_to(source / PAGE)}
    data |= {path for path in (source / "streamd/web/assets").rglob("*") if path.is_file()}
    data.add(source / "streamd" / "py.typed")
    expected = {path.relative_to(source).as_posix() for path in data}
    assert len(expected) > 200
    in_package = {name for name in names if name.startswith("streamd/") and not name.startswith(f"{DATA}/")}
    assert in_package == expected
    assert {"streamd/web/assets/index.html", "streamd/web/assets/assets/licenses.txt"} <= in_package
    assert {name.split("/")[0] for name in names if not name.startswith("streamd-")} == {"streamd"}


def test_a_wheel_has_the_demo_and_its_licences(names: set[str], wheel: Path) -> None:
    shipped = {name.removeprefix(f"{DATA}/") for name in names if name.startswith(f"{DATA}/")}
    assert {f"{ENGINE}/{path.name}" for path in (ROOT / ENGINE).iterdir()} <= shipped
    assert "examples/fleet/servers.csv.gz" in shipped
    assert {"examples/fleet/LICENSE-SMD.txt", "examples/fleet/LICENSE-MST-VAE.txt"} <= shipped
    notices = {name.partition(".dist-info/licenses/")[2] for name in names} - {""}
    assert notices == {"LICENSE", *(f"licenses/{path.name}" for path in (ROOT / "licenses").glob("*.txt"))}
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_what_a_wheel_has_is_found_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from streamd.tools.loadtest.shipped import find_shipped_files\n"
        "from streamd.repository.versions import EngineRepository\n"
        "files = find_shipped_files()\n"
        "print(files.fleet, EngineRepository(files.engines).choose().name)"
    )
    ran = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    fleet, engine = ran.stdout.split()
    assert Path(fleet).is_relative_to(tmp_path)
    assert engine == Path(ENGINE).name


def test_an_sdist_has_what_its_tests_and_documents_need(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    for name in (*BUILT_FROM, *TRACKED, "Makefile", "config.toml", "requirements.lock"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir() and not target.exists():
            # Only names matter here, and megabytes of weights take a second to compress.
            shutil.copytree(source, target, copy_function=_copy_small, ignore=IGNORED)
        elif source.is_file():
            shutil.copyfile(source, target)
    install_foreign_package(folder)
    built = folder / "dist" / run_backend(folder, "build_sdist('dist')")
    with tarfile.open(built) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    expected = {path.relative_to(folder).as_posix() for name in TRACKED for path in (folder / name).rglob("*.*")}
    assert {name for name in expected if (ROOT / name).is_file()} <= packed
    assert {"Makefile", "config.toml", "requirements.lock", "setup.py", "pyproject.toml"} <= packed
    page = {path.relative_to(folder).as_posix() for path in (folder / "streamd/web").rglob("*.*") if path.is_file()}
    foreign = {name for name in page if "/node_modules/" in name}
    assert foreign
    assert page - foreign <= packed
    assert not foreign & packed


def _copy_small(source: str, target: str) -> str:
    """Link a file to its copy; a large one becomes an empty file of its name."""
    if Path(source).stat().st_size < 100_000:
        Path(target).hardlink_to(source)
    else:
        Path(target).touch()
    return target


def test_the_extras_that_are_tested_are_among_the_development_tools() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name in ("tracing", "replay", "cluster"):
        assert set(extras[name]) <= set(extras["dev"])
