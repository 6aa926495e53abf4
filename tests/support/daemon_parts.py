"""The processes of a daemon of several processes, found in `/proc`."""

from pathlib import Path

import msgspec

from streamd.core.names import PART_FLAG


def find_parts(supervisor: int) -> dict[str, int]:
    """Return the pids of the processes that a supervisor started, by name: `engine`, `worker 0` and so on."""
    found: dict[str, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            arguments = (path / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        flag = PART_FLAG.encode()
        if parent == supervisor and flag in arguments:
            plan = msgspec.json.decode(arguments[arguments.index(flag) + 1])
            found["engine" if plan["role"] == "engine" else f"worker {plan['number']}"] = int(path.name)
    return found
