"""Tests `streamd/tools/loadtest/options.py` and the command `streamd replay`."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from streamd.cli import main
from streamd.tools.loadtest.errors import Exit
from streamd.tools.loadtest.options import add_arguments

ROOT = Path(__file__).resolve().parents[3]


def test_the_help_of_each_option_states_its_default() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    assert len(parser._actions) > 30
    assert [action.dest for action in parser._actions if "[default: " not in str(action.help)] == []


def test_the_script_is_the_same_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    script = subprocess.run([sys.executable, "scripts/replay.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    with pytest.raises(SystemExit) as ended:
        main(["replay", "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == script.returncode == 0
    assert shown == script.stdout
    assert shown.startswith("usage: streamd replay ")


@pytest.mark.parametrize("options", [["--rate", "0"], ["--rate", "1", "--speed", "2"], ["--unknown"]], ids=" ".join)
def test_a_wrong_option_is_wrong_usage(options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", *options])
    assert ended.value.code == Exit.USAGE


@pytest.mark.parametrize(
    "options",
    [
        ["--burst"],
        ["--dtype", "float16", "--subscriber-encoding", "json"],
        ["--rate", "5", "--capture", "x"],
        ["fleet.csv", "--capture", "x"],
        ["--context-rows", "5", "--capture", "x"],
    ],
    ids=" ".join,
)
def test_options_that_contradict_each_other_are_wrong_usage(options: list[str]) -> None:
    assert main(["replay", *options]) == Exit.USAGE
