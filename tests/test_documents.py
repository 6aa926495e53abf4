"""What the documents say of the code holds."""

import re
from pathlib import Path

import pytest

from streamd.core import errors
from streamd.core.errors import StreamdError

ROOT = Path(__file__).resolve().parent.parent
START_UP = {
    *(errors.ConfigError, errors.RepositoryError, errors.BackendUnavailableError, errors.StateError),
    errors.BuildError,
}


def wire_codes() -> set[str]:
    classes, todo = set(), [StreamdError]
    while todo:
        each = todo.pop()
        classes.add(each)
        todo += each.__subclasses__()
    return {each.code for each in classes} - {each.code for each in START_UP}


def test_readme_tells_every_wire_code() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([a-z_]+)`", table))
    assert wire_codes() - told == set()


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md"])
def test_files_that_documents_name_are_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(
        re.findall(
            r"\b(?:streamd|tests|scripts|benchmarks|systemd|core|runtime|transport|server|device)/[a-z_]+\.\w+", text
        )
    )
    missing = [name for name in named if not ((ROOT / name).exists() or (ROOT / "streamd" / name).exists())]
    assert named
    assert missing == []


def test_make_targets_that_readme_names_are_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {"demo", "test", "lint", "bench"} <= named & targets
