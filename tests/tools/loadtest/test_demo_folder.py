"""Tests `streamd/tools/loadtest/demo_folder.py`: the files of a demo whose daemon runs on."""

import stat
from pathlib import Path

from streamd.server.config import load_config, read_admin_token
from streamd.tools.loadtest.demo_folder import DemoFolder, FeederJob
from tests.support.tiny_version import ENGINES

PORT = 8123


def make_folder(path: Path) -> DemoFolder:
    folder = DemoFolder(path)
    folder.fill(ENGINES, PORT)
    return folder


def test_its_settings_are_those_of_a_daemon_with_rules_and_an_admin_token(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    config = load_config(folder.settings, environ={})
    assert (config.server.host, config.server.port) == ("127.0.0.1", PORT)
    assert config.state.state_dir == str(tmp_path / "state")
    assert sorted(config.alerts.rules) == ["cpu_busy", "disk_busy", "memory_full"]
    assert read_admin_token(config) == folder.admin_token.read_text().strip()


def test_only_its_owner_may_read_the_token_and_each_folder_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, second = make_folder(tmp_path), make_folder(tmp_path / "other")
    assert stat.S_IMODE(first.admin_token.stat().st_mode) == 0o600
    assert first.admin_token.read_text() != second.admin_token.read_text()


def test_it_has_all_versions_that_ship_and_not_what_was_promoted_elsewhere(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    shipped = sorted(path.name for path in ENGINES.iterdir() if path.is_dir() and not path.name.startswith("."))
    assert sorted(path.name for path in folder.engines.iterdir()) == shipped
    assert len(shipped) == 2


def test_the_job_of_the_feeder_is_read_as_it_was_written(tmp_path: Path) -> None:
    job = FeederJob(url="http://127.0.0.1:1", recording="fleet.csv", first_step=1, next_step=2, step_seconds=300)
    DemoFolder(tmp_path).write_job(job)
    assert DemoFolder(tmp_path).read_job() == job
