"""Tests `systemd/`: the unit files by systemd itself where it is installed, and what they promise by their text."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon_process import ROOT

UNITS = ROOT / "systemd"
PROGRAM = "/opt/streamd/.venv/bin/streamd"
MAX_EXPOSURE = 2.0

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60.0)


def get_systemd_version() -> int:
    return int(analyze("--version").stdout.split()[1])


def copy_units(folder: Path) -> None:
    """Copy the units to be verified: with a program that exists, and without what is newer than systemd."""
    for unit in UNITS.rglob("*.*"):
        if not unit.is_file() or (unit.name == "notify-reload.conf" and get_systemd_version() < 253):
            continue
        copy = folder / unit.relative_to(UNITS)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(unit.read_text().replace(PROGRAM, "/bin/true").replace("/opt/streamd/docs", "/usr"))


def read_settings(text: str) -> list[tuple[str, str]]:
    lines = (line for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


@needs_systemd
@pytest.mark.parametrize("unit", ["streamd.service", "streamd@web.service", "streamd.socket"])
def test_systemd_finds_nothing_wrong_with_a_unit(tmp_path: Path, unit: str) -> None:
    copy_units(tmp_path)
    verified = analyze("verify", "--man=no", str(tmp_path / unit))
    # systemd warns of units of the machine as well, such as one that still uses an option that is gone.
    ours = [line for line in verified.stderr.splitlines() if "streamd" in line]
    assert (verified.returncode, ours) == (0, [])


@needs_systemd
def test_a_wrong_setting_is_found(tmp_path: Path) -> None:
    copy_units(tmp_path)
    unit = tmp_path / "streamd.service"
    unit.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    assert "NoNewPrivilege" in analyze("verify", "--man=no", str(unit)).stderr


@needs_systemd
@pytest.mark.parametrize("name", ["streamd.service", "streamd@.service"])
def test_the_sandbox_leaves_little_exposed(tmp_path: Path, name: str) -> None:
    copy_units(tmp_path)
    unit = tmp_path / name.replace("@.", "@web.")
    (tmp_path / name).rename(unit)
    judged = analyze("security", "--offline=true", "--no-pager", f"--threshold={MAX_EXPOSURE * 10:.0f}", str(unit))
    assert judged.returncode == 0, judged.stdout
    (exposure,) = re.findall(r"exposure level for \S+: ([\d.]+)", judged.stdout)
    assert float(exposure) <= MAX_EXPOSURE


def test_the_template_differs_from_the_unit_by_its_instance_only() -> None:
    unit = (UNITS / "streamd.service").read_text(encoding="utf-8")
    template = (UNITS / "streamd@.service").read_text(encoding="utf-8")
    assert read_settings(unit) != read_settings(template)
    single = [
        (name, value.replace("/%i.toml", "/config.toml").replace("/%i", "").replace(" (%i)", ""))
        for name, value in read_settings(template)
    ]
    assert single == read_settings(unit)


def test_gpus_are_allowed_and_written_code_may_run() -> None:
    settings = read_settings((UNITS / "streamd.service").read_text(encoding="utf-8"))
    devices = {value for name, value in settings if name == "DeviceAllow"}
    assert {"char-nvidia rw", "char-nvidia-uvm rw", "/dev/nvidiactl rw", "/dev/nvidia0 rw"} <= devices
    assert not {name for name, _ in settings} & {"PrivateDevices", "MemoryDenyWriteExecute", "IPAddressDeny"}


def test_the_socket_has_the_address_and_the_backlog_of_the_settings() -> None:
    socket_settings = dict(read_settings((UNITS / "streamd.socket").read_text(encoding="utf-8")))
    config = (ROOT / "config.toml").read_text(encoding="utf-8")
    assert socket_settings["ListenStream"] == "127.0.0.1:8002"
    assert f"backlog = {int(socket_settings['Backlog']):_}" in config
