"""Tests `streamd/server/doctor/`: each check on a sound and on a broken subject, and the command as a process."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from streamd.core.state.layout import Column, Layout
from streamd.server.config import AccessSection, Config, EngineSection, ServerSection, StateSection
from streamd.server.doctor import access, engines, folders, machine
from streamd.server.doctor.findings import (
    DoctorCheck,
    Finding,
    FindingLevel,
    compute_exit_status,
    make_error,
    make_ok,
    make_warning,
    run_checks,
)
from streamd.server.doctor.probing import ProbedDevice, ProbedRuntimes, probe_runtimes
from tests.support.daemon_process import make_environment, run_command
from tests.support.served_versions import WINDOW, make_both

OK, WARNING, ERROR = FindingLevel.OK, FindingLevel.WARNING, FindingLevel.ERROR

CPU = ProbedRuntimes(
    onnxruntime="1.31", providers=("CPUExecutionProvider",), no_device="no driver", no_tensorrt="no driver"
)
GPU = ProbedRuntimes(
    devices=(ProbedDevice("NVIDIA H200", "9.0"),),
    cuda_driver="13.0",
    cuda_runtime="12.8",
    onnxruntime="1.31",
    providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    tensorrt="10.9",
)


def find(findings: Iterable[Finding], level: FindingLevel) -> list[str]:
    """Return the texts of the findings of a level; each that is not ok has a remedy."""
    listed = list(findings)
    assert all(finding.remedy for finding in listed if finding.level is not OK)
    return [finding.text for finding in listed if finding.level is level]


# ---------------------------------------------------------------- the runner
def test_a_check_that_hangs_or_fails_is_a_finding_and_the_others_report() -> None:
    released = threading.Event()

    def hang() -> list[Finding]:
        released.wait()
        return []

    def fail() -> list[Finding]:
        raise ZeroDivisionError("by zero")

    checks = [
        DoctorCheck("disk", hang, timeout_seconds=0.01),
        DoctorCheck("gpu", fail),
        DoctorCheck("cpu", lambda: [make_ok("cpu", "fine")]),
    ]
    findings = run_checks(checks)
    released.set()
    assert [(each.subject, each.level) for each in findings] == [("disk", ERROR), ("gpu", ERROR), ("cpu", OK)]
    assert "no answer within 0.01 s" in findings[0].text
    assert "ZeroDivisionError: by zero" in findings[1].text


def test_the_exit_status_is_that_of_the_worst_finding() -> None:
    fine, warning, error = make_ok("a", "b"), make_warning("a", "b", "c"), make_error("a", "b", "c")
    assert compute_exit_status([fine]) == 0
    assert compute_exit_status([fine, warning]) == 1
    assert compute_exit_status([error, fine, warning]) == 2


# ---------------------------------------------------------------- machine
def test_a_quota_below_the_cores_and_a_processor_without_vectors_are_warnings(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags : fpu sse2\n")
    (tmp_path / "cpu.max").write_text("10000 100000\n")
    texts = find(machine.check_processor(tmp_path, tmp_path), WARNING)
    assert len(texts) == 2
    assert "allows 0.1" in texts[0]
    assert "without AVX2" in texts[1]
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2 avx512f\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert find(machine.check_processor(tmp_path, tmp_path), OK)[0].endswith("cores, avx2 avx512f")


def test_too_few_descriptors_are_a_warning() -> None:
    assert find(machine.check_descriptors(ServerSection(max_sockets=1)), OK)
    (text,) = find(machine.check_descriptors(ServerSection(max_sockets=10**9)), WARNING)
    assert "fewer than max_sockets + 256 = 1000000256" in text


@pytest.mark.parametrize(
    ("clock", "level"), [((True, 0.004), OK), ((False, 0.004), WARNING), ((True, 9.0), WARNING), (None, WARNING)]
)
def test_the_clock(monkeypatch: pytest.MonkeyPatch, clock: tuple[bool, float] | None, level: FindingLevel) -> None:
    def read() -> tuple[bool, float]:
        if clock is None:
            raise OSError("not permitted")
        return clock

    monkeypatch.setattr(machine, "read_clock", read)
    assert find(machine.check_clock(), level)


def test_the_real_clock_is_read() -> None:
    assert machine.read_clock()[1] >= 0.0


def test_more_servers_than_memory_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1000000 kB\n")
    assert find(machine.check_state_memory(1_000, 55_000, tmp_path), OK)
    assert find(machine.check_state_memory(100_000, 55_000, tmp_path), ERROR)
    assert find(machine.check_state_memory(1, 1, tmp_path / "missing"), WARNING)


# ---------------------------------------------------------------- runtimes
def test_a_machine_without_a_gpu_is_fine_unless_the_settings_demand_one() -> None:
    auto, demanded = EngineSection(), EngineSection(backend="tensorrt")
    assert find(engines.check_gpus(CPU, auto, None), OK) == ["none that CUDA can use: no driver"]
    assert find(engines.check_backends(CPU, auto), OK)[-1] == "auto tries onnxruntime-cpu"
    assert find(engines.check_backends(CPU, demanded), ERROR) == ["tensorrt is demanded and cannot run: no driver"]


def test_a_gpu_that_only_the_driver_shows_is_a_warning_with_the_versions_that_do_not_fit() -> None:
    probed = msgspec.structs.replace(CPU, cuda_driver="11.8", cuda_runtime="12.8")
    (finding,) = [each for each in engines.check_gpus(probed, EngineSection(), ["0, H200"]) if each.level is WARNING]
    assert "the driver supports CUDA 11.8, cuda-python is for 12.8" in finding.remedy


def test_devices_that_do_not_exist_are_an_error() -> None:
    assert find(engines.check_gpus(GPU, EngineSection(devices=(0, 1)), None), ERROR)
    assert find(engines.check_gpus(GPU, EngineSection(), None), ERROR) == []


def test_runtimes_that_crash_or_hang_are_an_error(tmp_path: Path) -> None:
    crashed = probe_runtimes(command=(sys.executable, "-c", "import os; os.abort()"))
    assert crashed.failure == "loading the runtimes ended by signal 6"
    hung = probe_runtimes(0.01, command=(sys.executable, "-c", "input()"))
    assert "did not end within 0.01 s" in hung.failure
    assert "cannot start" in probe_runtimes(command=(str(tmp_path / "missing"),)).failure
    assert "printed something else" in probe_runtimes(command=(sys.executable, "-c", "print('hello')")).failure
    assert find(engines.check_gpus(crashed, EngineSection(), None), ERROR)


def test_the_versions_and_the_one_that_serves_are_named(tmp_path: Path) -> None:
    root = make_both(tmp_path / "engines")
    settings = EngineSection(engines=str(root))
    assert find(engines.check_repository(settings, CPU), OK) == [f"{WINDOW} serves (newest)"]
    (root / WINDOW / "model.onnx").write_bytes(b"damaged")
    (warning,) = find(engines.check_repository(settings, CPU), WARNING)
    assert WINDOW in warning
    pinned = EngineSection(engines=str(root), engine=WINDOW)
    assert find(engines.check_repository(pinned, CPU), ERROR)
    assert find(engines.check_repository(EngineSection(engines=str(root), engine="gone"), CPU), ERROR)
    assert find(engines.check_repository(EngineSection(engines=str(tmp_path / "none")), CPU), ERROR)


# ---------------------------------------------------------------- the state folder
def write_state_file(folder: Path, capacity: int) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "windows.streamd"
    path.write_bytes(Layout((Column("a", "<i4"),), capacity, {"kind": "windows"}).make_header())
    return path


def test_a_state_folder_that_is_not_there_yet_is_fine(tmp_path: Path) -> None:
    findings = list(folders.check_state(StateSection(state_dir=str(tmp_path / "new" / "state"), max_servers=10)))
    assert {finding.level for finding in findings} == {OK}
    assert not (tmp_path / "new").exists(), "the doctor changes nothing"


def test_damage_in_the_state_folder_is_named(tmp_path: Path) -> None:
    path = write_state_file(tmp_path, 10)
    settings = StateSection(state_dir=str(tmp_path), max_servers=10)
    assert "windows.streamd is readable" in find(folders.check_state(settings), OK)
    assert any(
        "next start migrates" in text for text in find(folders.check_state(StateSection(state_dir=str(tmp_path))), OK)
    )
    (tmp_path / "windows.streamd.1.old").touch()
    path.write_bytes(bytes(4_096))
    warnings = find(folders.check_state(settings), WARNING)
    assert ["set aside" in warnings[0], "header is damaged" in warnings[1]] == [True, True]
    # 2. A folder that is a file.
    assert find(folders.check_state(StateSection(state_dir=str(path))), ERROR)


def test_the_daemon_that_holds_the_state_is_found_without_a_lock(tmp_path: Path) -> None:
    path = write_state_file(tmp_path, 10)
    with path.open("rb") as file:
        assert folders.find_lock_holder(path) is None
        fcntl.flock(file, fcntl.LOCK_EX)
        assert folders.find_lock_holder(path) == os.getpid()
        assert any(
            "a daemon has it open" in text
            for text in find(folders.check_state(StateSection(state_dir=str(tmp_path))), OK)
        )


def test_a_disk_without_space_is_an_error_or_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = StateSection(state_dir=str(tmp_path), max_servers=10**12)
    assert find(folders.check_state(settings), WARNING)
    monkeypatch.setattr(folders, "SCARCE_BYTES", 2**80)
    assert find(folders.check_state(settings), ERROR)


# ---------------------------------------------------------------- address and access
def test_a_port_in_use_is_an_error_unless_this_daemon_uses_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        config = Config(
            server=ServerSection(port=used.getsockname()[1]),
            state=StateSection(state_dir=str(tmp_path), max_servers=10),
        )
        assert find(access.check_port(config), ERROR)
        path = write_state_file(tmp_path, 10)
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            (text,) = find(access.check_port(config), OK)
            assert f"the daemon of this state folder runs (process {os.getpid()})" in text
    assert find(access.check_port(config), OK), "it is free again"
    assert find(access.check_port(Config(server=ServerSection(host="host.invalid"))), ERROR)


def test_an_address_beyond_this_machine_needs_tokens(tmp_path: Path) -> None:
    beyond = ServerSection(host="0.0.0.0")
    assert find(access.check_access(Config(), {}), OK) == ["only this machine reaches the daemon"]
    assert find(access.check_access(Config(server=beyond), {}), ERROR)
    assert find(access.check_access(Config(server=beyond, access=AccessSection(insecure=True)), {}), WARNING)
    tokens = tmp_path / "tokens.json"
    tokens.write_text('{"version": 1, "tokens": []}')
    tokens.chmod(0o600)
    protected = Config(server=beyond, access=AccessSection(tokens_file=str(tokens)))
    (text,) = find(access.check_access(protected, {}), WARNING)
    assert "unencrypted" in text
    tokens.write_text("{}")
    assert find(access.check_access(protected, {}), ERROR)


def test_a_certificate_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    assert list(access.check_certificate(Config())) == []
    section = AccessSection(tls_certificate=str(tmp_path / "missing"), tls_key=str(tmp_path / "missing"))
    assert find(access.check_certificate(Config(access=section)), ERROR)


# ---------------------------------------------------------------- the command
def test_the_command_reports_as_json_and_by_its_exit_status(tmp_path: Path) -> None:
    make_both(tmp_path / "engines")
    settings = {"STREAMD_ENGINES": str(tmp_path / "engines"), "STREAMD_PORT": "0"}
    ran = run_command("doctor", "--json", cwd=tmp_path, **settings)
    findings = json.loads(ran.stdout)
    assert {"settings", "cpu", "clock", "backend", "engines", "state", "port"} <= {each["subject"] for each in findings}
    assert [each["text"] for each in findings if each["subject"] == "engines"] == [f"{WINDOW} serves (newest)"]
    worst = max(("ok", "warning", "error").index(each["level"]) for each in findings)
    assert ran.returncode == worst < 2, ran.stdout
    assert list(tmp_path.iterdir()) == [tmp_path / "engines"], "it changed nothing"


def test_wrong_settings_are_a_finding_and_the_machine_is_still_checked(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[server]\nport = 99999\n")
    ran = subprocess.run(
        [sys.executable, "-m", "streamd", "doctor", "--config", "c.toml"],
        cwd=tmp_path,
        env=make_environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stdout.startswith("ERROR settings")
    assert "cpu" in ran.stdout
