"""Tests `streamd/tools/alerts/rule_file.py`: what is read of a settings file, and which version forecasts."""

from pathlib import Path

import pytest

from streamd.core.errors import ConfigError, RepositoryError
from streamd.server.config import Config
from streamd.tools.alerts.rule_file import read_rule_file
from tests.support.small_version import NAME, make_version

RULES = '[alerts.rules.busy]\ntarget = "cpu"\nabove = 70.0\n[alerts.rules.idle]\ntarget = "net"\nbelow = 1.0\n'


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_version(tmp_path_factory.mktemp("engines")).parent


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_rules_are_bound_to_the_version_that_serves(tmp_path: Path, engines: Path) -> None:
    settings = read_rule_file(write(tmp_path, f'[engine]\nengines = "{engines}"\n{RULES}'))
    version = settings.open_version(None, None)
    assert version.name == NAME
    assert [rule.name for rule in settings.bind(version.contract, [])] == ["busy", "idle"]
    assert [rule.name for rule in settings.bind(version.contract, ["idle"])] == ["idle"]


def test_the_folder_of_versions_is_relative_to_the_file(tmp_path: Path) -> None:
    make_version(tmp_path / "engines")
    assert read_rule_file(write(tmp_path, RULES)).open_version(None, None).path == tmp_path / "engines" / NAME


def test_flags_choose_another_version(tmp_path: Path, engines: Path) -> None:
    settings = read_rule_file(write(tmp_path, f'[engine]\nengine = "other_20250101_000000"\n{RULES}'))
    assert settings.open_version(engines, NAME).name == NAME
    with pytest.raises(RepositoryError, match="other_20250101_000000"):
        settings.open_version(engines, None)


def test_an_ensemble_needs_a_choice(tmp_path: Path, engines: Path) -> None:
    settings = read_rule_file(write(tmp_path, '[engine]\nensemble = ["a_20250101_000000", "b_20250101_000000"]\n'))
    with pytest.raises(ConfigError, match=r"engine\.ensemble: .*expected --engine"):
        settings.open_version(engines, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alerts = 1", "alerts: is a value, expected a section"),
        ("[engine]\nengines = 7", "engine.engines: is 7, expected a text"),
        ("[windows]\nmin_context_rows = 0", "windows.min_context_rows: is 0, expected a whole number of 1 or more"),
        ('[alerts.rules.a]\ntarget = "cpu"', "alerts.rules.a: neither above nor below is given"),
        ("[alerts", "config.toml: "),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: ") as caught:
        read_rule_file(write(tmp_path, text))
    assert message in str(caught.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        read_rule_file(tmp_path / "none.toml")


def test_a_rule_that_the_model_cannot_have_is_named_with_its_file(tmp_path: Path, engines: Path) -> None:
    settings = read_rule_file(write(tmp_path, RULES.replace('"net"', '"disk"')))
    with pytest.raises(ConfigError, match=r"config\.toml: alerts\.rules\.idle\.target: is 'disk', expected one of"):
        settings.bind(settings.open_version(engines, None).contract, [])


def test_a_rule_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, engines: Path) -> None:
    settings = read_rule_file(write(tmp_path, RULES))
    with pytest.raises(ConfigError, match=r"--rule full: .*there are: busy, idle"):
        settings.bind(settings.open_version(engines, None).contract, ["full"])


def test_what_a_file_leaves_out_has_the_default_of_the_daemon(tmp_path: Path) -> None:
    settings, daemon = read_rule_file(write(tmp_path, RULES)), Config()
    assert settings.engines == tmp_path / daemon.engine.engines
    assert settings.min_context_rows == daemon.windows.min_context_rows
