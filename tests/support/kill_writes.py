"""Kills a process with SIGKILL at every step of writing into or beside a version; `test_recording.py` runs it.

Arguments: a folder with one version, the folder for its copies, and the change. The k-th copy is what a process left
that was killed before its k-th system call, or in the middle of that call if it is a write.
"""

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from streamd.repository.schema import VERSION_RECORD
from streamd.tools.engine.gate.recording import record_verdicts, write_unlisted_file
from streamd.tools.engine.output.atomic_version import NewVersion
from tests.support.kill_at_calls import kill_at_each_call
from tests.support.kill_toolchain import CALLS

NAME = "tft_tensorrt_20250101_000000"
VERDICT = {"int8": {"promotable": False, "reasons": ["cpu_user: correlation 0.5, expected at least 0.999"]}}


def export(root: Path) -> None:
    """Publish a version of files that were written by others, as an export does at its end."""
    with NewVersion(root, "new") as new:
        for name in ("model.onnx", "weights.safetensors"):
            (new.folder / name).write_bytes((root / NAME / name).read_bytes())
        new.publish(json.loads((root / NAME / "config.json").read_text()), {"opset": 17})


CHANGES: dict[str, Callable[[Path], object]] = {
    "validate": lambda root: record_verdicts(root / NAME / VERSION_RECORD, VERDICT, ["refused"]),
    "bench": lambda root: write_unlisted_file(root / NAME, "benchmark_results.json", b"new figures"),
    "export": export,
}


def main(source: Path, copies: Path, change: str) -> list[str]:
    """Return the name of the call at which each copy's process was killed; the last copy's was not."""

    def prepare(step: int) -> Callable[[], object]:
        copy = copies / str(step)
        shutil.copytree(source, copy)
        return partial(CHANGES[change], copy)

    return kill_at_each_call(prepare, CALLS)


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]), sys.stdout)
