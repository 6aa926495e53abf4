"""Tests `streamd/tools/ingest/command.py`: the formats, and their help."""

import pytest

from streamd import cli
from streamd.tools.ingest.command import INGEST_FORMATS


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["ingest", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_help_lists_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"{name}  {text}" in shown for name, _, text in INGEST_FORMATS)


@pytest.mark.parametrize("name", [name for name, _, _ in INGEST_FORMATS])
def test_each_format_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert f"streamd ingest {name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["ganglia"]])
def test_another_format_is_a_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert "pcp2json" in capsys.readouterr().err or not arguments
