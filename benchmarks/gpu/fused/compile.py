"""Compiles the variants of the fused patch forecaster to PTX with NVRTC; needs no GPU.

`measure.py` says of which version it is.

In an environment of its own: `pip install nvidia-cuda-nvrtc-cu12==12.0.140`, then
`python -m benchmarks.gpu.fused.compile`. The files are generated, so they are not kept; `measure.py` needs them.
"""

import argparse
import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
COMPILER = FOLDER.parents[2] / "scripts" / "compile_kernels.py"
VARIANTS = (("staged", 1, 7), ("staged", 1, 8), ("staged", 2, 7), ("staged", 2, 8), ("cached", 2, 8))
"""Where weights are read from, blocks on a multiprocessor, warps of a block."""

ARCHITECTURE = b"compute_80"
"""The oldest with the copies into shared memory that the kernel uses."""


def compile_variants(folder: Path = FOLDER) -> int:
    """Write `patch_<staged or cached>_<blocks>_<warps>.ptx` of each variant; returns 1 if one does not compile."""
    compiler = runpy.run_path(str(COMPILER))
    library, source, failed = compiler["load_nvrtc"](), (FOLDER / "patch.cu").read_bytes(), 0
    for weights, blocks, warps in VARIANTS:
        macros = {"STAGED": int(weights == "staged"), "RESIDENT": blocks, "WARPS": warps}
        options = (
            b"--gpu-architecture=" + ARCHITECTURE,
            b"--std=c++14",
            *(f"-D{name}={value}".encode() for name, value in macros.items()),
        )
        number, output = compiler["compile_source"](library, source, "patch.cu", options)
        if number:
            failed = 1
            print(output.decode(), file=sys.stderr)
        else:
            (folder / f"patch_{weights}_{blocks}_{warps}.ptx").write_bytes(output)
    return failed


def main() -> int:
    """Compile all variants."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    return compile_variants()


if __name__ == "__main__":
    sys.exit(main())
