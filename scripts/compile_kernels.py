"""Compiles the CUDA kernels of the package to PTX with NVRTC; needs no GPU.

In an environment of its own: `pip install nvidia-cuda-nvrtc-cu12==12.0.140`, then `python scripts/compile_kernels.py`.
NVRTC 12.0 writes PTX 8.0, which drivers from 525 on take; the target is the oldest architecture that it still knows
well. Each `.ptx` begins with the SHA-256 of its source, by which a test notices one that was not compiled again.
"""

import ctypes
import hashlib
import importlib.util
import sys
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[1] / "streamd" / "inference" / "cuda" / "kernels"
OPTIONS = (b"--gpu-architecture=compute_70", b"--std=c++14", b"--restrict")


def main(folder: Path = KERNELS) -> int:
    """Compile every `.cu` of the folder; returns 1 if one does not compile."""
    library = load_nvrtc()
    failed = 0
    for source in sorted(folder.glob("*.cu")):
        text = source.read_bytes()
        number, output = compile_source(library, text, source.name)
        if number:
            failed = 1
            print(output.decode(), file=sys.stderr)
            continue
        header = f"// SHA-256 of {source.name}: {hashlib.sha256(text).hexdigest()}\n"
        source.with_suffix(".ptx").write_bytes(header.encode() + output)
        print(f"{source.name}: {len(output):,} bytes of PTX")
    return failed


def load_nvrtc() -> ctypes.CDLL:
    """Load NVRTC from its package in this environment."""
    package = importlib.util.find_spec("nvidia.cuda_nvrtc")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("no NVRTC: pip install nvidia-cuda-nvrtc-cu12==12.0.140")
    folder = Path(next(iter(package.submodule_search_locations)), "lib")
    return ctypes.CDLL(str(next(folder.glob("libnvrtc.so*"))))


def compile_source(
    library: ctypes.CDLL, source: bytes, name: str, given: tuple[bytes, ...] = OPTIONS
) -> tuple[int, bytes]:
    """Compile a source; returns NVRTC's status, and the PTX or the messages of the compiler."""
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None)
    options = (ctypes.c_char_p * len(given))(*given)
    number: int = library.nvrtcCompileProgram(program, len(given), options)
    kind = "ProgramLog" if number else "PTX"
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
    output = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{kind}")(program, output)
    return number, output.value


if __name__ == "__main__":
    sys.exit(main())
