"""Faults of the device, its memory or a plan, and the daemon's reaction. Each fault has a process and a log of its own.

Plans: truncated, with a flipped bit, with an altered header, for another GPU; each is loaded directly, and served with
and without an updated SHA-256. Memory: all of the device's memory is allocated beforehand. An illegal access: a kernel
writes to an invalid address on the stream of one of four lanes under load, once and at every batch; and whether new
lanes work in the same process afterwards. Not measured: a GPU that falls off the bus, ECC errors, faults of the driver,
the wait for a hung kernel.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.gpu.harness import ROOT, ResultFile, Suite
from benchmarks.gpu.processes import Daemon, copy_version, run_daemon
from benchmarks.gpu.windows import make_windows
from benchmarks.harness import print_table
from streamd.http.wire.tensors import make_wire_tensor
from streamd.repository.versions import EngineVersion

CHILD_SECONDS = 150
QUICK = {"warmup_seconds": 0.5, "lanes": 2, "buckets": "1,8", "backend": "auto"}
"""Settings of daemons that only have to show which backend they use in the end."""

SPARED_MIB = (150, 900)
"""Free device memory: too little for a CUDA context, and enough for a context but not for lanes."""

Damage = Callable[[Path], None]


def truncate(plan: Path) -> None:
    """Keep the first half."""
    with plan.open("r+b") as file:
        file.truncate(plan.stat().st_size // 2)


def flip_bit(plan: Path) -> None:
    """Change one bit in the middle."""
    _flip(plan, plan.stat().st_size // 2, 1)


def alter_header(plan: Path) -> None:
    """Change the first bytes, which identify the plan's format."""
    _flip(plan, 0, 8)


def _flip(plan: Path, at: int, count: int) -> None:
    with plan.open("r+b") as file:
        file.seek(at)
        before = file.read(count)
        file.seek(at)
        file.write(bytes(byte ^ 0x10 for byte in before))


def claim_another_gpu(plan: Path) -> None:
    """Make the version state that its plan was built for another GPU."""
    info = _read_conversion(plan.parent)
    for each in info["plans"].values():
        each |= {"gpu": "NVIDIA A10", "compute_capability": "8.6"}
    _write_conversion(plan.parent, info)


DAMAGES: dict[str, Damage] = {
    "truncated": truncate,
    "flipped bit": flip_bit,
    "altered header": alter_header,
}


class Faults:
    """The faults that are provoked for one version."""

    def __init__(self, suite: Suite, version: EngineVersion, result: ResultFile) -> None:
        self.suite = suite
        self.version = version
        self.result = result
        self.rows: list[dict[str, Any]] = []

    def run(self) -> None:
        """Provoke each fault; a failure does not affect the others."""
        for name, damage in DAMAGES.items():
            self._provoke(f"loader: {name}", partial(self._try_loader, damage=damage))
            self._provoke(f"daemon: {name}", partial(self._try_daemon, damage=damage, fit=False))
            self._provoke(f"daemon: {name}, updated SHA-256", partial(self._try_daemon, damage=damage, fit=True))
        self._provoke("daemon: plan for another GPU", partial(self._try_daemon, damage=claim_another_gpu, fit=False))
        for spared in SPARED_MIB:
            self._provoke(
                f"daemon: {spared} MiB of the device free at start", partial(self._try_full_memory, spared=spared)
            )
        self._provoke("reset after an illegal access", partial(self._run_fault, what="reset"))
        for how in ("once", "always"):
            self._provoke(
                f"daemon: illegal access, {how}", partial(self._run_fault, what="illegal", more=("--how", how))
            )

    def _provoke(self, name: str, provoke: Callable[[Path], dict[str, Any]]) -> None:
        title = f"faults {self.version.name}: {name}"
        with self.suite.run_part(title), tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
            found = {"engine": self.version.name, "fault": name, **provoke(Path(folder))}
            self.rows.append(found)
            self.result.append("faults", found)
            if not found["passes"]:
                self.suite.failures.append(f"{title}: {found.get('told')}")

    # ------------------------------------------------------------ plans
    def _try_loader(self, folder: Path, damage: Damage) -> dict[str, Any]:
        """Load a damaged plan: the loader may refuse or load it, but must not end the process."""
        version = copy_version(self.suite, self.version, folder)
        plan = _list_plans(version)[0]
        damage(plan)
        code, finding, log = _run_child("load", "--plan", str(plan), "--version", str(version))
        return {"passes": code == 0, "told": finding.get("told", f"ended with {code}"), "exit": code, "log": log}

    def _try_daemon(self, folder: Path, damage: Damage, *, fit: bool) -> dict[str, Any]:
        """Serve a damaged plan: the daemon must answer, and state why it passed over TensorRT."""
        version = copy_version(self.suite, self.version, folder / "engines")
        for plan in _list_plans(version):
            damage(plan)
        if fit:
            update_hashes(version)
        with run_daemon(folder, folder / "engines", self.version.name, **QUICK) as daemon:
            return self._judge_daemon(daemon, must_fall_back=not fit)

    def _try_full_memory(self, folder: Path, spared: int) -> dict[str, Any]:
        copy_version(self.suite, self.version, folder / "engines")
        filler = _start_child("fill", "--spared-mib", str(spared), stdin=subprocess.PIPE)
        assert filler.stdout is not None
        assert filler.stdin is not None
        try:
            held = filler.stdout.readline().decode().strip()
            with run_daemon(folder, folder / "engines", self.version.name, **QUICK) as daemon:
                return {**self._judge_daemon(daemon, must_fall_back=True), "taken": held}
        finally:
            filler.stdin.close()
            filler.wait(30)

    def _judge_daemon(self, daemon: Daemon, *, must_fall_back: bool) -> dict[str, Any]:
        seconds = daemon.wait_ready()
        status = daemon.get("/v1/status")[1]
        answered = can_predict(daemon, self.version)
        reasons = {each["backend"]: each["reason"] for each in status["fallbacks"]}
        fell_back = status["backend"] != "tensorrt" and "tensorrt" in reasons
        return {
            "passes": answered and (fell_back or not must_fall_back),
            "told": reasons.get("tensorrt", f"runs on {status['backend']}"),
            "backend": status["backend"],
            "answers": answered,
            "seconds_to_ready": round(seconds, 2),
            "log": daemon.read_log_tail(),
        }

    # ------------------------------------------------------------ illegal accesses
    def _run_fault(self, folder: Path, what: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
        copy_version(self.suite, self.version, folder / "engines")
        arguments = [
            "--engines",
            str(folder / "engines"),
            "--version",
            self.version.name,
            "--folder",
            str(folder),
            *more,
        ]
        arguments += [
            "--backend",
            "auto" if self.suite.arguments.backend == "tensorrt" else self.suite.arguments.backend,
        ]
        code, finding, log = _run_child(what, *arguments)
        return {"passes": False, "told": f"ended with {code}", **finding, "exit": code, "log": log}


def _run_child(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run one fault in a process of its own; returns its exit status, its finding, and the end of its log."""
    child = _start_child(*arguments)
    try:
        output, _ = child.communicate(timeout=CHILD_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
    lines = output.decode(errors="replace").splitlines()
    found = next((line for line in reversed(lines) if line.startswith('{"told"')), "{}")
    finding: dict[str, Any] = json.loads(found)
    return child.returncode, finding, "\n".join(lines[-12:])


def _start_child(*arguments: str, stdin: int | None = None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "benchmarks.gpu.faults_child", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def can_predict(daemon: Daemon, version: EngineVersion) -> bool:
    """Whether the daemon answers a caller's prediction within 20 seconds."""
    windows = make_windows(version.contract, 4).view_first(4)
    body = msgspec.msgpack.encode({"inputs": {name: make_wire_tensor(value) for name, value in windows.items()}})
    headers = {"Content-Type": "application/msgpack"}
    request = urllib.request.Request(f"{daemon.url}/v1/predict", body, headers)
    began = time.monotonic()
    while time.monotonic() - began < 20:
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return bool(response.status == 200)
        except OSError:
            time.sleep(0.2)
    return False


# ---------------------------------------------------------------- versions
def _list_plans(version: Path) -> list[Path]:
    plans = sorted(version.glob("*.engine"))
    if not plans:
        raise FileNotFoundError(f"{version}: no plans to damage; give --plans")
    return plans


def _read_conversion(version: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((version / "conversion_info.json").read_text())
    return info


def _write_conversion(version: Path, info: dict[str, Any]) -> None:
    (version / "conversion_info.json").write_text(json.dumps(info))


def update_hashes(version: Path) -> None:
    """Update the listed SHA-256 of every plan to that of its file."""
    info = _read_conversion(version)
    for plan in _list_plans(version):
        info["sha256"][plan.name] = hashlib.sha256(plan.read_bytes()).hexdigest()
    _write_conversion(version, info)


def run(suite: Suite) -> None:
    """Provoke every fault for the first version; all versions share the code that handles them."""
    result = ResultFile(suite, "faults", not_measured=__doc__)
    faults = Faults(suite, suite.versions[0], result)
    faults.run()
    rows = [("yes" if row["passes"] else "NO", row["fault"], str(row["told"])[:150]) for row in faults.rows]
    print_table(f"Faults: {suite.versions[0].name}", ("passed", "fault", "finding"), rows)
