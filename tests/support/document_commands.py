"""Finds the commands that documents show, and parses each with the parser that would run it.

Run as a program, it reads command lines (a JSON list of lists of words) and writes what is wrong with each, or null.
This happens in a process of its own, because extras that are not installed are replaced there: parsing needs no
PyTorch.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import itertools
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn
from unittest.mock import MagicMock

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("streamd", "make", "pip", "python", "curl", "systemctl", "scripts/make_sample.py", "scripts/replay.py")
OPTIONAL = (
    "torch",
    "pandas",
    "pyarrow",
    "onnx",
    "safetensors",
    "matplotlib",
    "tqdm",
    "transformers",
    "tensorrt",
    "cuda",
)
ACTIVATE = (".", ".venv/bin/activate")
KEYWORDS = {"do", "done", "then", "fi"}


def blocks_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield the indented blocks of a Markdown document, each with the text of its section up to it."""
    heading = 0
    # Fenced blocks are of other languages; their lines may be indented too.
    lines = re.sub(r"^```.*?^```", lambda fence: "\n" * fence[0].count("\n"), text, flags=re.M | re.S).split("\n")
    at = 0
    while at < len(lines):
        if lines[at].startswith("#"):
            heading = at
        if lines[at].startswith("    ") and (at == 0 or not lines[at - 1].startswith((" ", "-", "*"))):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield "\n".join(line[4:] for line in lines[at:end]).rstrip(), "\n".join(lines[heading:end])
            at = end
        else:
            at += 1


def inline_of(text: str) -> list[str]:
    """Return what a Markdown document shows between backticks; a line end within it is a space."""
    prose = re.sub(r"^    [^\n]*$|```.*?```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose)]


def commands_in(block: str) -> Iterator[tuple[str, ...]]:
    """Yield the simple commands of a shell block, without comments, assignments, loops and what joins them."""
    block = re.sub(r"\\\n\s*", " ", block)
    block = re.sub(r'"?\$\(basename "?\$\w+"?\)"?', "VERSION", block)  # a word, not a command of the block
    block = re.sub(r"\b[A-Z]+=\$\((.*?)\)(?=\s|$)", r"\1", block)
    pending = ""
    for line in block.split("\n"):
        pending += line + "\n"
        try:
            found = _split(pending)
        except ValueError:  # a quotation that continues in the next line
            continue
        pending = ""
        yield from found
    if pending:
        raise ValueError(f"a quotation without an end: {pending}")


def _split(line: str) -> list[tuple[str, ...]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|"):
            commands.append([])
        elif word not in KEYWORDS:
            commands[-1].append(word)
    return [tuple(words) for words in commands if words and words[0] != "for"]


def plain(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command without what stands before its program: a virtual environment, or a memory checker."""
    if words[0] == "compute-sanitizer":
        words = words[words.index("python") :]
    program = words[0].removeprefix("/opt/streamd/").removeprefix(".venv/bin/")
    if program in ("python", "python3"):
        return ("python", *words[1:])
    return (program, *words[1:])


def is_command(words: tuple[str, ...]) -> bool:
    """Return whether a command is one that can be judged here."""
    return words == ACTIVATE or plain(words)[0] in PROGRAMS


# ---------------------------------------------------------------- what is wrong with a command
class ParsedError(Exception):
    """Raised instead of running what was parsed."""


def parse_problem(words: tuple[str, ...]) -> str | None:
    """Return what the parser of a command says against it, or `None`. Runs nothing."""
    if words == ACTIVATE:
        return None
    program, *rest = plain(words)
    judges = {"make": _make, "pip": _pip, "curl": _curl, "systemctl": _systemctl, "streamd": _streamd}
    if program in judges:
        return judges[program](rest)
    if program == "python":
        return _python(rest)
    return _script(lambda: runpy.run_path(str(ROOT / program), run_name="__main__"), [program, *rest])


def _make(rest: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for word in rest:
        name, assigned, _ = word.partition("=")
        known = re.search(rf"\$\((if )?{name}\b", makefile) if assigned else name in targets
        if not known:
            return f"the Makefile knows no {name}"
    return None


def _pip(rest: list[str]) -> str | None:
    if rest[0] not in ("install", "uninstall"):
        return f"pip {rest[0]}: expected install or uninstall"
    extras = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    )
    for word in rest[1:]:
        match = re.fullmatch(r"(?:\.|streamd)\[([\w,]+)\]", word)
        if match and (unknown := set(match[1].split(",")) - extras):
            return f"no extra {', '.join(sorted(unknown))}"
    return None


def routes() -> list[str]:
    """Return the paths of the daemon's routes, as patterns."""
    paths = []
    for source in (ROOT / "streamd" / "http" / "routes").glob("*.py"):
        found = re.findall(r"add_(?:get|post|delete|route)\(\s*(?:\"[A-Z]+\", )?f?\"(/[^\"]*)\"", source.read_text())
        paths += [re.sub(r"\{\w+(:[^}]*)?\}", "[^/]+", path) for path in found]
    return paths


def _curl(rest: list[str]) -> str | None:
    urls = [word for word in rest if word.startswith("http")]
    if len(urls) != 1:
        return f"{len(urls)} addresses, expected one"
    path = re.sub(r"^https?://[^/]+", "", urls[0]).partition("?")[0]
    if not any(re.fullmatch(route, path) for route in routes()):
        return f"the daemon has no {path}"
    for flag, word in itertools.pairwise(rest):
        if flag == "-d":
            json.loads(word)
    return None


def _systemctl(rest: list[str]) -> str | None:
    return None if rest[-1] in ("streamd", "streamd.socket", "reload") else f"no unit {rest[-1]}"


def _streamd(rest: list[str]) -> str | None:
    from streamd import cli
    from streamd.tools.engine.command import SUBCOMMANDS

    def parse() -> None:
        args, more = cli.make_parser().parse_known_args(rest)
        if not args.takes_rest:
            if more:
                raise SystemExit(f"unrecognized arguments: {more}")
            raise ParsedError
        parser = argparse.ArgumentParser(prog=args.prog)
        module = importlib.import_module(args.module)
        if args.module == "streamd.tools.engine.command" and more and not more[0].startswith("-"):
            named = {name: path for name, path, _ in SUBCOMMANDS}
            if more[0] not in named:
                raise SystemExit(f"no command {more[0]}")
            module, more = importlib.import_module(named[more[0]]), more[1:]
        module.add_arguments(parser)
        parser.parse_args(more)

    return _judged(parse)


def _python(rest: list[str]) -> str | None:
    if rest[0] == "-m" and rest[1] == "streamd":
        return _streamd(rest[2:])
    if rest[0] == "-m":
        return _script(lambda: runpy.run_module(rest[1], run_name="__main__", alter_sys=True), rest[1:])
    return _script(lambda: runpy.run_path(str(ROOT / rest[0]), run_name="__main__"), rest)


def _script(run: Any, argv: list[str]) -> str | None:
    sys.argv = argv
    return _judged(run)


def _judged(run: Any) -> str | None:
    complaint = io.StringIO()
    original = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> NoReturn:
        original(self, *args, **kwargs)
        raise ParsedError

    argparse.ArgumentParser.parse_args = parse_and_stop  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(io.StringIO()):
            run()
    except ParsedError:
        return None
    except SystemExit as exit_:
        return None if exit_.code == 0 else complaint.getvalue().strip() or str(exit_.code)
    except Exception as error:  # a script that is not there, say
        return f"{type(error).__name__}: {error}"
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]
    return "ran without parsing anything"


class _Stub(MagicMock):
    """A module of an extra that is not installed: each attribute exists and can be inherited from."""

    __path__: ClassVar[list[str]] = []

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (object,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # As a decorator it returns what it decorates.
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else super().__call__(*args, **kwargs)


class _Stubs:
    """Finds any module of these packages."""

    def __init__(self, packages: set[str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.util.spec_from_loader(name, self) if name.partition(".")[0] in self._packages else None  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> Any:
        return _Stub(name=spec.name)

    def exec_module(self, module: Any) -> None:
        """Run nothing."""


def problems_of(commands: list[tuple[str, ...]]) -> list[str | None]:
    """Return what is wrong with each command, or `None`, found in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.document_commands"],
        cwd=ROOT,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    problems: list[str | None] = json.loads(done.stdout)
    return problems


def main() -> None:
    """Judge the commands on standard input."""
    absent = {name for name in OPTIONAL if importlib.util.find_spec(name) is None}
    sys.meta_path.append(_Stubs(absent))
    json.dump([parse_problem(tuple(words)) for words in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
