#!/usr/bin/env python3
"""Fetch a builder and a parser of TensorRT 11 that need no GPU: `make tensorrt` runs it, then the test that uses them.

Two public packages are unpacked into a folder, 170 MB: the Python API of TensorRT 11, and ONNX Runtime's plugin for
TensorRT-RTX, in which a builder and a parser are. A small library, compiled here with `cc`, joins the two. They build
plans, and show what the compiler of a current TensorRT takes and refuses; they run none on this machine.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = ("tensorrt-cu13-bindings==11.4.0.106", "onnxruntime-ep-nv-tensorrt-rtx-cu12==0.5.0")
API, LIBRARIES = "tensorrt_bindings", "onnxruntime_ep_nv_tensorrt_rtx"
STANDS_FOR = ("libnvinfer.so.11", "libnvonnxparser.so.11", "libnvinfer_plugin.so.11")
"""The libraries that the Python API loads, from its own folder."""

UNNEEDED = ("libonnxruntime_providers_nv_tensorrt_rtx.so", "libtensorrt_shim.so", "libtensorrt_plugins.so")
SOURCE = Path(__file__).with_suffix(".c")


def main(folder: Path) -> int:
    """Prepare the folder, unless it is prepared; return the exit status."""
    done = folder / "prepared"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        fetch_packages(folder)
        compile_library(folder)
        done.write_text("\n".join(PACKAGES) + "\n")
    print(f"{folder}: set STREAMD_TRT11 to it")
    return 0


def fetch_packages(folder: Path) -> None:
    """Download both packages with pip, for this Python, and unpack them."""
    with tempfile.TemporaryDirectory() as wheels:
        command = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
        subprocess.run([*command, "--only-binary=:all:", "--dest", wheels, *PACKAGES], check=True)
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    for name in UNNEEDED:
        (folder / LIBRARIES / name).unlink(missing_ok=True)


def compile_library(folder: Path) -> None:
    """Compile the library that the Python API finds under three names, and that finds the two others beside it."""
    libraries = folder / LIBRARIES
    for pattern, name in (("libcudart.so.*.*", "libcudart.so.12"), ("libtensorrt_rtx.so.*.*", "libtensorrt_rtx.so.1")):
        link = libraries / name
        link.unlink(missing_ok=True)
        link.symlink_to(next(libraries.glob(pattern)).name)
    parser = next(libraries.glob("libtensorrt_onnxparser_rtx.so.*"))
    first, *others = (folder / API / name for name in STANDS_FOR)
    paths = (f'-DBUILDER="{(libraries / "libtensorrt_rtx.so.1").resolve()}"', f'-DPARSER="{parser.resolve()}"')
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", *paths, str(SOURCE), f"-Wl,-soname,{first.name}", "-o", str(first), "-ldl"],
        check=True,
    )
    for other in others:
        other.unlink(missing_ok=True)
        other.symlink_to(first.name)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path, nargs="?", default=Path(".trt11"), help="[default: %(default)s]")
    raise SystemExit(main(arguments.parse_args().folder))
