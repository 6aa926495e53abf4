"""Tests `streamd/tools/loadtest/demo_steps.py`: what the end of a demo says."""

from pathlib import Path

import pytest

from streamd.tools.loadtest.demo_folder import DemoFolder
from streamd.tools.loadtest.demo_steps import KeptDaemon, list_kept_steps, list_next_steps
from streamd.tools.loadtest.terminal import Terminal

KEPT = KeptDaemon("http://127.0.0.1:8002", 11, 12, DemoFolder(Path(".demo/20261129")))
WIDTHS = (60, 120, 200)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_comes_first_and_then_how_to_get_the_token(width: int) -> None:
    lines = [line for line in list_kept_steps(KEPT, Terminal(width))[1:] if not line.lstrip().startswith("# ")]
    assert lines[0].split()[0] == "http://127.0.0.1:8002/"
    assert lines[1].split()[:2] == ["cat", ".demo/20261129/admin_token"]


def test_it_says_how_to_stop_the_daemon_and_how_to_start_it_again() -> None:
    text = "\n".join(list_kept_steps(KEPT, Terminal(200)))
    assert "kill 11 12 " in text
    assert "serve --config .demo/20261129/config.toml" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_each_command_has_its_words(width: int) -> None:
    lines = list_next_steps(Path("engines"), Terminal(width))
    assert sum("# " in line for line in lines) == 3
    assert any("demo --keep" in line for line in lines)
