"""Kills a process with SIGKILL at every step of writing a version; `test_folders.py` runs it as a module.

Arguments: the version to make another of, and the folder for the results. The k-th result is what a process left that
was killed before its k-th system call, or in the middle of that call if it is a write.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

from streamd.tools.engine.output.folders import VersionFolder
from tests.support.kill_at_calls import kill_at_each_call
from tests.support.made_graphs import SETTINGS, WHERE, make_plan, read_made_source

CALLS = ((os, ("open", "mkdir", "write", "fsync", "replace", "rename", "chmod", "close")),)


def main(version: Path, folders: Path) -> list[str]:
    """Return the call at which each process was killed; the last one's was not."""
    source = read_made_source(version)

    def write(step: int) -> None:
        with VersionFolder(source, folders / str(step), None, ["streamd"]) as folder:
            folder.add_plan(make_plan(), SETTINGS, WHERE)
            folder.finish()

    return kill_at_each_call(lambda step: partial(write, step), CALLS)


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1]), Path(sys.argv[2])), sys.stdout)
