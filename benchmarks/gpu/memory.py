"""A short correctness run, small enough for `compute-sanitizer --tool memcheck python -m benchmarks.gpu.run`.

64 windows, two lanes, buckets 1 and 8, with CUDA graphs. Not measured: anything else; errors of memory are the
sanitizer's to tell (`--error-exitcode 9` makes them the exit status).
"""

import argparse
from dataclasses import replace

from benchmarks.gpu.correctness import Reference, batches_of, passes, run_pass
from benchmarks.gpu.harness import ResultFile, Suite, make_backend, open_lanes, precisions
from streamd.inference import cuda

WINDOWS, LANES, BUCKETS, LIMIT = 64, 2, (1, 8), 5e-3


def run(suite: Suite) -> None:
    """Run every version in every precision, and count what is left open."""
    result = ResultFile(suite, "memory", not_measured=__doc__)
    small = replace(suite, arguments=argparse.Namespace(**{**vars(suite.arguments), "buckets": BUCKETS}))
    for version in suite.versions:
        for precision in precisions(small, version):
            with suite.part(f"memory {version.name} {precision}"):
                reference = Reference.of(version, WINDOWS)
                with open_lanes(make_backend(small, version, precision, lanes_per_device=LANES), LANES) as lanes:
                    figures = run_pass(lanes, reference, batches_of(WINDOWS, BUCKETS, seed=1), LIMIT).summary()
                left = cuda.live()
                sound = passes(figures, LIMIT) and not left
                found = {"engine": version.name, "precision": precision, "passes": sound, "left_open": left, **figures}
                result.append("passes", found)
                print(f"{version.name} {precision}: {'sound' if sound else found}")
