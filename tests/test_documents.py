"""What the documents say of the code holds."""

import importlib
import json
import re
import runpy
import subprocess
import textwrap
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamd.core import errors
from streamd.core.errors import StreamdError
from streamd.http.errors import http_status
from streamd.tools.engine.command import SUBCOMMANDS, WHOLE_PATH
from streamd.tools.loadtest.options import EPILOG
from streamd.tools.loadtest.terminal import Terminal
from tests.support.document_commands import blocks_of, commands_in, inline_of, is_command, plain, problems_of

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


# ---------------------------------------------------------------- the table of errors
ON_SAMPLES = {"invalid_sample", "invalid_server", "invalid_time", "invalid_value", "too_old", "too_far_ahead"}
"""Codes of one sample among others: they come in the answer's `errors`."""

NEVER_ON_THE_WIRE = {errors.ConfigError.code, errors.StateError.code, errors.BuildError.code}
HTTP_SERVERS_OWN = {"not_found": "404", "method_not_allowed": "405"}


def all_errors() -> list[type[StreamdError]]:
    found = [StreamdError]
    for each in found:
        found += each.__subclasses__()
    return found


def table_of_codes(text: str) -> dict[str, str]:
    """What the table says of each code: its HTTP status, or `errors` for those of samples."""
    told: dict[str, str] = {}
    for line in text.split("| code | HTTP | meaning |")[1].split("\n\n")[0].splitlines()[2:]:
        codes, statuses = re.findall(r"`(\w+)`", line.split("|")[1]), re.findall(r"\w+", line.split("|")[2])
        statuses = [word for word in statuses if word != "in"]
        assert len(statuses) in (1, len(codes)), f"which status is whose? {line}"
        for code, status in zip(codes, statuses * (len(codes) // len(statuses)), strict=True):
            assert code not in told, f"{code} is there twice"
            told[code] = status
    return told


def codes_of_the_code() -> dict[str, str]:
    """The same of the code: the status that the middleware gives each error."""
    found = dict(HTTP_SERVERS_OWN)
    for each in all_errors():
        if each.__module__ == errors.__name__ and each.code not in NEVER_ON_THE_WIRE:
            status = "errors" if each.code in ON_SAMPLES else str(http_status(each("why")))
            assert found.setdefault(each.code, status) == status, f"{each.code} has two statuses"
    return found


def test_readme_tells_every_code_with_its_http_status_and_no_other() -> None:
    assert table_of_codes((ROOT / "README.md").read_text(encoding="utf-8")) == codes_of_the_code()


def test_a_wrong_table_of_codes_is_noticed() -> None:
    head = "| code | HTTP | meaning |\n|---|---|---|\n"
    told = table_of_codes(f"{head}| `a`, `b` | 401, 403 | x |\n| `c`, `d` | 500 | y |\n| `e` | in `errors` | z |\n\n")
    assert told == {"a": "401", "b": "403", "c": "500", "d": "500", "e": "errors"}
    for line in ("| `a`, `b`, `c` | 409, 422 | x |", "| `a` | 400 | x |\n| `a` | 401 | y |"):
        with pytest.raises(AssertionError):
            table_of_codes(f"{head}{line}\n\n")


# ---------------------------------------------------------------- the commands
OTHER_BLOCKS = ("from streamd.engine import", "ws://")
EXTRAS_OF = {"train": "train", "release": "train", "evaluate": "train", "export": "train", "ship": "train"}
EXTRAS_OF |= {"build": "build", "validate": "build"}
WITHOUT_A_VENV = ("make", "curl", "systemctl", ".")


def documents() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    found = listed.stdout.split() or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.md")]
    return [name for name in found if not name.startswith(".")]


def recorded(document: str) -> bool:
    """Whether a document is a record of what ran once, elsewhere."""
    return document.startswith("benchmarks/results/")


def commands_of_documents() -> list[tuple[str, tuple[str, ...], str]]:
    """Of each document: where, the command, and its section up to it."""
    found = []
    for document in documents():
        for block, before in blocks_of((ROOT / document).read_text(encoding="utf-8")):
            if block.startswith(OTHER_BLOCKS):
                continue
            found += [(document, words, before) for words in commands_in(block)]
    return found


def commands_of_help() -> list[tuple[str, tuple[str, ...]]]:
    """Of each text that `--help` shows after the options, and of each docstring of a benchmark that is run."""
    texts = {"streamd engine": WHOLE_PATH, "replay.py": EPILOG}
    for name, module, _ in SUBCOMMANDS:
        texts[f"streamd engine {name}"] = importlib.import_module(module).EXAMPLES
    found = []
    for name, text in texts.items():
        lines = re.sub(r"\\\n\s*", " ", text).split("\n")
        shown = [line.strip() for line in lines if line.startswith("  ")]
        commands = [line for line in shown if re.match(r"(V=\$\()?(streamd|\.venv)", line)]
        assert commands, f"{name} shows no command"
        found += [(name, words) for words in commands_in("\n".join(commands))]
    return found


def test_the_documents_show_nothing_but_commands_that_are_known() -> None:
    unknown = [(place, words) for place, words, _ in commands_of_documents() if not is_command(words)]
    assert unknown == []
    assert len({place for place, _, _ in commands_of_documents()}) >= 5


def test_every_command_of_every_document_and_help_is_taken_by_its_parser() -> None:
    shown = [(place, words) for place, words, _ in commands_of_documents()] + commands_of_help()
    assert len(shown) > 50
    problems = problems_of([words for _, words in shown])
    assert [(*one, why) for one, why in zip(shown, problems, strict=True) if why] == []


def test_a_command_that_its_parser_does_not_take_is_noticed() -> None:
    wrong = """
        streamd server --port 8002
        .venv/bin/streamd serve --prot 8002
        streamd engine make
        streamd engine ship
        streamd engine build --version V --precision fp12
        streamd train --config C --data D
        streamd evaluate --model M --data D --gpu
        .venv/bin/python scripts/replay.py --rate 1 --speed 2
        scripts/nothing.py
        python -m benchmarks.gpu.run --engines built
        python -m benchmarks.nothing
        make dmeo
        make demo KEPT=1
        pip install -e '.[builds]'
        curl http://localhost:8002/v1/forecast/web-01
        systemctl reload streamed
    """
    commands = list(commands_in(textwrap.dedent(wrong)))
    assert len(commands) == 16
    problems = problems_of(commands)
    assert [words for words, why in zip(commands, problems, strict=True) if not why] == []


def test_commands_are_found_in_a_shell_block() -> None:
    block = """
        V=$(streamd engine export A) && \\
        V=$(streamd engine build --version "$V")  # a comment
        for V in a b; do streamd engine validate $V; done
        streamd engine promote "$(basename "$V")" --why "a b" && curl -d '
          {}' http://h/x
    """
    assert list(commands_in(textwrap.dedent(block))) == [
        ("streamd", "engine", "export", "A"),
        ("streamd", "engine", "build", "--version", "$V"),
        ("streamd", "engine", "validate", "$V"),
        ("streamd", "engine", "promote", "VERSION", "--why", "a b"),
        ("curl", "-d", "\n  {}", "http://h/x"),
    ]


def test_a_command_stands_beside_the_extras_that_it_needs() -> None:
    without = []
    for place, words, before in commands_of_documents():
        program, *rest = plain(words)
        named = next((word for word in rest if word in EXTRAS_OF), None) if program == "streamd" else None
        installed = {extra for found in re.findall(r"\.\[([\w,]+)\]", before) for extra in found.split(",")}
        if named and not recorded(place) and EXTRAS_OF[named] not in installed:
            without.append((place, words, EXTRAS_OF[named]))
    assert without == []


def test_the_help_of_a_command_names_the_extra_that_it_needs() -> None:
    for name, module, text in SUBCOMMANDS:
        for extra in re.findall(r"\(extra: (\w+)\)", text):
            assert EXTRAS_OF[name] == extra
            said = importlib.import_module(module).DESCRIPTION
            assert re.search(rf"extras? .*`{extra}`", said), f"{name} does not say that it needs the extra {extra}"


def test_every_extra_that_the_code_tells_to_install_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sources = [*(ROOT / "streamd").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    named = {
        found for path in sources for found in re.findall(r"streamd\[([\w,]+)\]", path.read_text(encoding="utf-8"))
    }
    assert named
    assert {extra for each in named for extra in each.split(",")} <= set(project["optional-dependencies"])


def test_a_command_says_whose_python_runs_it() -> None:
    bare = [
        (place, words)
        for place, words, before in commands_of_documents()
        if not recorded(place) and not words[0].startswith((".venv/", *WITHOUT_A_VENV))
        if ". .venv/bin/activate" not in before
    ]
    assert bare == []


def test_code_in_the_documents_is_python_or_json() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    others = [block for block, _ in blocks_of(text) if block.startswith(OTHER_BLOCKS)]
    assert len(others) == 2
    for block in others:
        if block.startswith("ws://"):
            json.loads(block.partition("> ")[2])
        else:
            compile(block, "README.md", "exec")


def test_commands_that_the_prose_names_are_there() -> None:
    """Part of a command is enough there: what it names must exist, what it leaves out may be required."""
    named = [(document, text) for document in documents() for text in inline_of((ROOT / document).read_text("utf-8"))]
    commands = [(place, tuple(text.split())) for place, text in named if re.match(r"(streamd|make) [a-z]", text)]
    subcommands = {name for name, _, _ in SUBCOMMANDS}
    known = {"serve", "engine", "train", "release", "evaluate"}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert len(commands) > 10
    for place, (program, first, *rest) in commands:
        assert first in (targets if program == "make" else known), (place, program, first)
        if first == "engine" and rest:
            assert rest[0] in subcommands, (place, rest)


def test_commands_that_the_demo_and_the_unit_show_are_taken() -> None:
    demo = runpy.run_path(str(ROOT / "scripts" / "demo.py"))
    shown = SimpleNamespace(outlooks=[], contract=SimpleNamespace(context_length=288))
    child = SimpleNamespace(url="http://127.0.0.1:8002", pid=7, log=ROOT / ".demo" / "streamd.log")
    lines = [line for one in (None, child) for line in demo["_next_steps"](one, shown, Terminal(width=160))]
    lines = [line.strip() for line in lines if not line.strip().startswith(("#", "-", "─", "README", "kill"))]
    (start,) = re.findall(r"^ExecStart=(.*)$", (ROOT / "systemd" / "streamd.service").read_text("utf-8"), re.MULTILINE)
    commands = [words for line in [*lines, start] for words in commands_in(line)]
    assert len(commands) >= 8
    assert [(words, why) for words, why in zip(commands, problems_of(commands), strict=True) if why] == []
