"""A short correctness run, small enough for `compute-sanitizer --tool memcheck python -m benchmarks.gpu.run`.

64 windows, two lanes, buckets 1 and 8, with CUDA graphs. The sanitizer reports errors of memory, with `--error-exitcode
9` as the exit status. Not measured: anything else.
"""

import argparse
from dataclasses import replace

from benchmarks.gpu.correctness import Reference, has_passed, make_batches, run_pass
from benchmarks.gpu.harness import ResultFile, Suite, list_precisions, make_backend, open_lanes
from streamd.inference import cuda

WINDOWS, LANES, BUCKETS, LIMIT = 64, 2, (1, 8), 5e-3


def run(suite: Suite) -> None:
    """Run every version in every precision, and count the device resources that are left open."""
    result = ResultFile(suite, "memory", not_measured=__doc__)
    small = replace(suite, arguments=argparse.Namespace(**{**vars(suite.arguments), "buckets": BUCKETS}))
    for version in suite.versions:
        for precision in list_precisions(small, version):
            with suite.run_part(f"memory {version.name} {precision}"):
                reference = Reference.of(version, WINDOWS)
                with open_lanes(make_backend(small, version, precision, lanes_per_device=LANES), LANES) as lanes:
                    figures = run_pass(lanes, reference, make_batches(WINDOWS, BUCKETS, seed=1), LIMIT).summarize()
                left = cuda.count_live()
                sound = has_passed(figures, LIMIT) and not left
                found = {"engine": version.name, "precision": precision, "passes": sound, "left_open": left, **figures}
                result.append("passes", found)
                print(f"{version.name} {precision}: {'passed' if sound else found}")
