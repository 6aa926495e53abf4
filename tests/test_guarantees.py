"""Tests `docs/guarantees.md`: each promise names a proof, and each proof is a test that exists."""

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.support.document_tables import ROOT, read, read_tables

Found = list[str]
"""What is wrong, one sentence each."""

PROOF = re.compile(r"`(tests/[\w/]+\.py)::([\w*]+)`")
MIN_PROMISES = 25

EVENTS = (
    *("a restart", "`kill -9`", "a power failure", "a full disk", "a read-only disk", "a lost GPU", "a slow reader"),
    *("a clock that jumps", "a revoked token", "two daemons on one state folder"),
)
"""The events that operators ask about; each has a row."""


def list_promises(text: str) -> list[tuple[str, str]]:
    """Return the first cell and the proofs of each row of all tables."""
    rows = [row for table in read_tables(text) for row in table if "proof" in row]
    return [(next(iter(row.values())), row["proof"]) for row in rows]


@cache
def list_tests(path: Path) -> set[str]:
    """Return the names of the tests of a module, `*` for all of them; also of those in classes."""
    if not path.exists():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    tests = {node.name for node in functions if node.name.startswith("test_")}
    return tests | {"*"} if tests else set()


def find_unproven(text: str) -> Found:
    """Return promises without a proof, and proofs that do not exist."""
    found = []
    for promise, cell in list_promises(text):
        proofs = PROOF.findall(cell)
        if not proofs or PROOF.sub("", cell).strip(" ,"):
            found.append(f"{promise[:60]}: its proof is not a list of tests: {cell[:100]}")
        found += [
            f"{promise[:60]}: there is no test {path}::{name}"
            for path, name in proofs
            if name not in list_tests(ROOT / path)
        ]
    return found


def find_missing_events(text: str) -> Found:
    events = [promise for promise, _ in list_promises(text)]
    return [f"{event}: has no row" for event in EVENTS if event not in events]


@pytest.mark.parametrize(
    ("guard", "broken"),
    [
        (find_unproven, ("::test_one_state_folder_serves_one_daemon`", "::test_that_is_gone`")),
        (find_unproven, ("`tests/server/test_lifecycle.py::", "`tests/server/test_gone.py::")),
        (find_unproven, ("`tests/server/test_lifecycle.py::test_one_state_folder_serves_one_daemon`", "trust us")),
        (find_missing_events, ("| a full disk |", "| an empty disk |")),
    ],
)
def test_each_promise_is_proven_by_tests_that_exist(guard: Callable[[str], Found], broken: tuple[str, str]) -> None:
    text = read("docs/guarantees.md")
    assert broken[0] in text
    assert guard(text.replace(*broken)), f"the guard does not notice {broken}"
    assert guard(text) == []


def test_there_are_promises() -> None:
    assert len(list_promises(read("docs/guarantees.md"))) >= MIN_PROMISES
