"""Tests `streamd`: the structure of the code. Each guard is tried on a broken source: a guard must be able to fail."""

import ast
import functools
import gc
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamd.core.errors import StreamdError
from streamd.server.config import SECTIONS, Config

ROOT = Path(__file__).parents[1]
Sources = Mapping[str, str]
"""Source by module name."""

Found = list[str]
"""What is wrong, each as `module: why`."""


def read_sources() -> dict[str, str]:
    """Every module of the package."""
    sources = {}
    for path in sorted((ROOT / "streamd").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = path.read_text(encoding="utf-8")
    assert len(sources) > 30, "the package was found"
    return sources


@functools.cache
def parse(source: str) -> ast.Module:
    """Return the tree of a source. Several guards read each module, and to parse all of them takes a second."""
    return ast.parse(source)


@functools.cache
def walk(source: str) -> tuple[ast.AST, ...]:
    """Return every node of a source: to find them takes longer than to read them, and several guards do."""
    return tuple(ast.walk(parse(source)))


def walk_statements(source: str) -> Iterator[ast.AST]:
    """Yield the module and every statement in it, wherever it stands: there are far fewer than nodes."""
    waiting: list[ast.AST] = [parse(source)]
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, field, ())


@pytest.fixture(autouse=True, scope="module")
def _trees_are_kept_for_this_module() -> Iterator[None]:
    """No garbage collection meanwhile: it visits all trees again and again, which takes longer than to parse them."""
    gc.disable()
    yield
    walk.cache_clear()
    parse.cache_clear()
    gc.enable()


@functools.cache
def imports_of(source: str) -> tuple[str, ...]:
    """Every name that is imported, wherever it stands: `from a.b import c` gives a.b and a.b.c."""
    names: list[str] = []
    for node in walk_statements(source):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are banned"
            names.append(str(node.module))
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def is_in(name: str, rooms: Iterable[str]) -> bool:
    """Whether a module is one of these, or lies in one."""
    return f"{name}.".startswith(begins_of(tuple(rooms)))


@functools.cache
def begins_of(rooms: tuple[str, ...]) -> tuple[str, ...]:
    """Return how the names of all begin that lie in one of these, each name with a dot behind it."""
    return tuple(f"{room}." for room in rooms)


def check(guard: Callable[[Sources], Found], broken: Iterable[Sources]) -> None:
    """Run a guard over the package, once it has shown that it finds what is broken."""
    for sources in broken:
        assert guard(sources), f"the guard is blind to {sources}"
    assert guard(read_sources()) == []


# ---------------------------------------------------------------- who may know whom
def packages(*names: str) -> tuple[str, ...]:
    return tuple(f"streamd.{name}" for name in names)


FORBIDDEN: dict[str, tuple[str, ...]] = {
    "streamd.core": (
        *("asyncio", "aiohttp", "uvloop", "socket", "select", "selectors", "ssl", "http"),
        *("threading", "_thread", "multiprocessing", "concurrent", "queue", "subprocess", "signal"),
        *("cuda", "tensorrt", "onnxruntime", "torch", "time", "mmap", "prometheus_client", "structlog"),
        *packages("inference", "repository", "runtime", "cluster", "http", "server", "tools", "engine", "cli"),
    ),
    "streamd.protocols": (
        *("asyncio", "aiohttp", "socket", "threading", "subprocess", "time"),
        *packages("inference", "repository", "runtime", "cluster", "http", "server", "tools", "engine", "cli"),
        *packages("rule_sets"),
    ),
    "streamd.rule_sets": packages(
        *("inference", "repository", "runtime", "cluster", "http", "server", "tools", "engine", "cli", "protocols"),
    ),
    "streamd.inference": packages("runtime", "cluster", "http", "server", "tools", "engine", "cli"),
    "streamd.repository": packages("inference", "runtime", "cluster", "http", "server", "tools", "engine", "cli"),
    "streamd.runtime": ("aiohttp", *packages("repository", "http", "server", "tools", "engine", "cli", "cluster")),
    "streamd.http": packages("inference", "repository", "server", "tools", "engine", "cli", "cluster"),
    "streamd.cluster": ("aiohttp", *packages("inference", "repository", "http", "server", "tools", "engine", "cli")),
    "streamd.web": (
        *("asyncio", "aiohttp", "socket", "threading", "subprocess", "time"),
        *packages("core", "protocols", "rule_sets", "inference", "repository", "runtime", "http", "server", "tools"),
        *packages("cluster", "engine", "cli"),
    ),
    "streamd.server": packages("tools", "engine", "cli"),
    "streamd.tools": packages("runtime", "http", "server", "cli"),
    "streamd.tools.networks": packages("inference", "repository"),
    "streamd.tools.loadtest": packages("core", "inference", "repository"),
    "streamd.engine": packages("core", "runtime", "repository", "cluster", "http", "server", "tools", "cli"),
    "streamd.client": (
        *("uvloop", "orjson", "onnxruntime", "prometheus_client", "structlog"),
        *packages("core", "protocols", "rule_sets", "inference", "repository", "runtime", "http", "server", "tools"),
        *packages("cluster", "engine", "cli"),
    ),
}
"""What each package may not import."""

INFERENCE_WITHOUT_VERSIONS = packages("inference.cuda", "inference.tensorrt", "inference.onnxruntime")
"""What runs a network knows nothing of versions on disk; `inference/api` opens them by name."""

FLOORS = {
    "streamd.tools.engine": ("graph", "precision", "plan", "output", "gate", "bench", "commands"),
    "streamd.core": ("state", "scheduling", "mapping", "aggregation"),
    "streamd.runtime": ("state", "aggregation", "lanes", "versions"),
}
"""Packages that stand on each other, the lowest first: each imports only those before it."""


def find_forbidden_imports(sources: Sources) -> Found:
    rules = [*FORBIDDEN.items(), *((each, packages("repository")) for each in INFERENCE_WITHOUT_VERSIONS)]
    rules += [(f"streamd.{each}", packages("client")) for each in DAEMON]
    for parent, floors in FLOORS.items():
        for number, floor in enumerate(floors):
            rules.append((f"{parent}.{floor}", tuple(f"{parent}.{above}" for above in floors[number + 1 :])))
    return [
        f"{module}: imports {name}"
        for module, source in sources.items()
        for room, forbidden in rules
        if is_in(module, [room])
        for name in imports_of(source)
        if is_in(name, forbidden)
    ]


def test_packages_import_only_what_they_may() -> None:
    check(
        find_forbidden_imports,
        [
            {"streamd.core.x": "import asyncio"},
            {"streamd.core.x": "import time"},
            {"streamd.core.x": "def f():\n    from time import monotonic"},
            {"streamd.core.x": "import cuda.bindings.runtime"},
            {"streamd.core.x": "from streamd import runtime"},
            {"streamd.core": "import threading"},
            {"streamd.core.state.x": "from streamd.core.scheduling.costs import CostTable"},
            {"streamd.http.x": "from streamd.inference.lane import Lane"},
            {"streamd.http.x": "from streamd.cluster.log import Log"},
            {"streamd.runtime.x": "from streamd.cluster.log import Log"},
            {"streamd.core.cluster.x": "from streamd.cluster.log import Log"},
            {"streamd.cluster.x": "from streamd.http.app import HttpApp"},
            {"streamd.http.x": "if TYPE_CHECKING:\n    import streamd.server.config"},
            {"streamd.runtime.x": "from streamd.http import app"},
            {"streamd.runtime.x": "from streamd import server"},
            {"streamd.runtime.lanes.x": "from streamd.runtime.versions.manager import DeploymentManager"},
            *({f"streamd.{package}.x": "import streamd.tools.fleets.fleet"} for package in DAEMON),
            {"streamd.inference.tensorrt.x": "from streamd.repository.plans import choose_plan"},
            {"streamd.tools.engine.graph.x": "from streamd.tools.engine.plan.builder import PlanBuilder"},
            {"streamd.tools.x": "import streamd.server.config"},
            {"streamd.client.x": "from streamd.core.names import PART_FLAG"},
            {"streamd.http.x": "from streamd.client import Client"},
            {"streamd.protocols.x": "from aiohttp import web"},
            {"streamd.rule_sets": "from streamd.protocols.collectd import CollectdDecoder"},
            {"streamd.core.mapping.x": "from streamd.core.aggregation.points import ServerPoints"},
        ],
    )
    assert find_forbidden_imports({"streamd.core.x": "import timeit_of_ours", "streamd.runtime.x": "import time"}) == []


DAEMON = ("core", "protocols", "rule_sets", "inference", "repository", "runtime", "cluster", "http", "server", "web")
"""The daemon's packages: none of them imports `tools/`, and `streamd serve` loads none of it."""


def find_clients_of_nats(sources: Sources) -> Found:
    """Modules that import the client of NATS, beside those that are all about it; what is foreign stays there."""
    return [
        f"{module}: imports {name}"
        for module, source in sources.items()
        if not is_in(module, ["streamd.cluster.nats"])
        for name in imports_of(source)
        if is_in(name, ["nats", "nkeys"])
    ]


def test_only_the_modules_of_nats_import_its_client() -> None:
    check(find_clients_of_nats, [{"streamd.cluster.log": "def f():\n    import nats.errors"}])
    assert find_clients_of_nats({"streamd.cluster.nats.log": "from nats.aio.msg import Msg"}) == []


CLOCK_CALLS = {"now", "utcnow", "today", "fromtimestamp", "time", "monotonic", "perf_counter"}


def find_clocks(sources: Sources) -> Found:
    """In core, a date is a type that samples may have, and nothing is asked what time it is."""
    found = []
    for module, source in sources.items():
        if not is_in(module, ["streamd.core"]):
            continue
        allowed = {"datetime", "datetime.datetime"} if module == "streamd.core.state.samples" else set()
        dates = {name for name in imports_of(source) if is_in(name, ["datetime", "calendar"])}
        found += [f"{module}: imports {name}" for name in sorted(dates - allowed)]
        for node in walk(source):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS:
                found.append(f"{module}: calls {ast.unparse(node.func)}")
    return found


def test_core_has_no_clock() -> None:
    check(
        find_clocks,
        [
            {"streamd.core.x": "from datetime import datetime"},
            {"streamd.core.state.samples": "from datetime import UTC"},
            {"streamd.core.state.samples": "from datetime import datetime\nx = datetime.now()"},
            {"streamd.core.x": "import numpy as np\nx = np.datetime64.today()"},
        ],
    )


BACKENDS = packages("inference.onnxruntime", "inference.tensorrt", "inference.fake")
"""The backends themselves."""

COMPOSITION_ROOTS = ("streamd.server", "streamd.inference.api.backends")
"""Who names concrete backends: the daemon's root, and the one table of the library."""

CONCRETE_BACKENDS = re.compile(
    r"streamd\.inference\.(onnxruntime|fake|tensorrt)\b|\b(OnnxRuntime\w*|Fake|TensorRT\w*)Backend\b"
)


LIBRARIES = re.compile(r"streamd\.inference\.(\w+\.library|tensorrt\.plan_file)\b")
"""Foreign libraries and the file format, not backends: the toolchain builds with them, whatever serves."""


def find_named_backends(sources: Sources) -> Found:
    """Names of concrete backends outside of the composition root: imported, used, or spelled out for importlib."""
    found = []
    for module, source in sources.items():
        if is_in(module, (*COMPOSITION_ROOTS, *BACKENDS)):
            continue
        docs = {id(text) for text in docstrings_of(source)}
        words = [*imports_of(source)]
        for node in walk(source):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                words.append(node.value)
            elif isinstance(node, ast.Name):
                words.append(node.id)
        if is_in(module, ["streamd.tools.engine"]):
            words = [word for word in words if not LIBRARIES.match(word)]
        found += [f"{module}: names {word}" for word in words if CONCRETE_BACKENDS.search(word)]
    return found


def docstrings_of(source: str) -> Iterator[ast.expr]:
    """The docstrings of a module and of all in it: they may name what they like."""
    for node in walk_statements(source):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.value


def test_only_the_composition_root_names_backends() -> None:
    check(
        find_named_backends,
        [
            {"streamd.runtime.x": "from streamd.inference.fake import forecast_of"},
            {"streamd.runtime.x": "from streamd.inference.onnxruntime import cpu_lane"},
            {"streamd.inference.api.inference": "from streamd.inference.tensorrt.runner import TensorRtRunner"},
            {"streamd.tools.engine.x": "def f():\n    from streamd.inference.tensorrt.runner import TensorRtRunner"},
            {"streamd.runtime.x": "from streamd.inference.tensorrt.library import load_tensorrt"},
            {"streamd.cli": "import_module('streamd.inference.onnxruntime.cpu_lane')"},
            {"streamd.inference.lane": "def f():\n    return FakeBackend()"},
        ],
    )
    assert find_named_backends({"streamd.inference.lane": '"""What FakeBackend does."""'}) == []


READING_ROOMS = ("streamd.repository", "streamd.server", "streamd.runtime", "streamd.inference", "streamd.engine")


def find_unguarded_reads(sources: Sources) -> Found:
    """Files that the daemon opens by itself: a pipe would keep it waiting (`streamd.regular_files` does not)."""
    found = []
    for module, source in sources.items():
        if not is_in(module, READING_ROOMS):
            continue
        for node in walk(source):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            opens = called.endswith(".open") and node.args and ast.unparse(node.args[0]).startswith("'r")
            if called == "open" or called.endswith((".read_bytes", ".read_text")) or opens:
                found.append(f"{module}: calls {called}")
    return found


def test_the_daemon_s_rooms_read_no_file_that_may_be_a_pipe() -> None:
    check(
        find_unguarded_reads,
        [
            {"streamd.repository.x": "path.read_bytes()"},
            {"streamd.server.x": "(a / b).read_text(encoding='utf-8')"},
            {"streamd.runtime.x": "with path.open('rb') as file:\n    pass"},
            {"streamd.engine.x": "open(path)"},
        ],
    )
    assert find_unguarded_reads({"streamd.server.x": "os.open(path, flags)\nkeeper.open()"}) == []


# ---------------------------------------------------------------- cycles
def find_cycles(sources: Sources) -> Found:
    """Import cycles among the package's modules, of any kind of import: for types only and in functions too."""
    graph = {module: {name for name in imports_of(source) if name in sources} for module, source in sources.items()}
    for module, names in graph.items():
        names.discard(module)
        # `from streamd.core import board` names the room too, but needs it only as a way to the module.
        rooms = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
        names -= rooms
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"{' -> '.join(error.args[1])}: a cycle"]
    return []


def test_there_is_no_import_cycle() -> None:
    a_needs_b = {"streamd.a": "from streamd.b import x"}
    check(
        find_cycles,
        [
            {**a_needs_b, "streamd.b": "import streamd.a"},
            {**a_needs_b, "streamd.b": "def f():\n    from streamd import a"},
            {
                **a_needs_b,
                "streamd.b": "if TYPE_CHECKING:\n    from streamd.c import x",
                "streamd.c": "import streamd.a",
            },
        ],
    )
    assert find_cycles({**a_needs_b, "streamd.b": "import json"}) == []


# ---------------------------------------------------------------- light to start
HEAVY = (
    "onnx",
    "tqdm",
    "numpy",
    "aiohttp",
    "uvloop",
    "msgspec",
    "onnxruntime",
    "cuda",
    "tensorrt",
    "torch",
    "pyarrow",
    "streamd.server",
)

LOADED = """
import json, sys
try:
    {code}
except SystemExit as ended:
    assert not ended.code, ended.code
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def heavy_modules(code: str) -> list[str]:
    """Run code in a fresh interpreter; return which heavy modules it loaded."""
    return [name for name in loaded_modules(code) if is_in(name, HEAVY)]


def loaded_modules(code: str) -> list[str]:
    """Run code in a fresh interpreter; return which modules it loaded."""
    command = [sys.executable, "-c", LOADED.format(code=code)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    loaded: list[str] = json.loads(ran.stdout.splitlines()[-1])
    return loaded


@pytest.mark.parametrize(
    "arguments", [["--help"], ["serve", "--help"], ["engine", "--help"], ["token", "--help"], ["--version"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert heavy_modules(f"from streamd.cli import main; main({arguments!r})") == []


def test_what_is_loaded_is_seen() -> None:
    assert "numpy" in heavy_modules("import streamd.core.state.windows")


def test_core_loads_no_foreign_runtime() -> None:
    modules = [name for name in read_sources() if is_in(name, ["streamd.core"])]
    assert set(heavy_modules(f"import {', '.join(modules)}")) & {"aiohttp", "uvloop", "onnxruntime", "cuda"} == set()


def test_the_client_loads_nothing_of_the_daemon_and_nothing_heavy() -> None:
    loaded = loaded_modules("import streamd.client")
    ours = {name for name in loaded if is_in(name, ["streamd"]) and not is_in(name, ["streamd.client"])}
    assert ours == {"streamd"}
    assert {name for name in loaded if name in HEAVY} == {"aiohttp", "msgspec", "numpy"}


def test_the_daemon_loads_no_tools_and_without_others_nothing_of_a_cluster() -> None:
    loaded = loaded_modules("import streamd.server.daemon")
    assert not [name for name in loaded if is_in(name, ["streamd.tools", "streamd.cluster", "nats"])]
    assert [name for name in loaded_modules("import streamd.tools.engine.flags") if is_in(name, ["streamd.tools"])]


# ---------------------------------------------------------------- documented and typed
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(tree: ast.Module | ast.ClassDef, public: bool = True) -> Iterator[tuple[Definition, bool]]:
    """Every class, function and method, and whether it is public; what is within a function is its own affair."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            shown = public and not node.name.startswith("_")
            yield node, shown
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, shown)


def find_untold(sources: Sources) -> Found:
    found = []
    for module, source in sources.items():
        tree = parse(source)
        if not ast.get_docstring(tree):
            found.append(f"{module}: has no docstring")
        for node, public in definitions(tree):
            overload = any("overload" in ast.unparse(each) for each in node.decorator_list)
            if public and not overload and not ast.get_docstring(node):
                found.append(f"{module}: {node.name} has no docstring")
            if not isinstance(node, ast.ClassDef) and node.returns is None:
                found.append(f"{module}: {node.name} has no return annotation")
    return found


def test_everything_public_has_a_docstring_and_every_function_a_return_type() -> None:
    check(
        find_untold,
        [
            {"x": ""},
            {"x": '"""Told."""\nclass A:\n    pass'},
            {"x": '"""Told."""\ndef f() -> None:\n    pass'},
            {"x": '"""Told."""\nclass A:\n    """Told."""\n    def f(self) -> None:\n        pass'},
            {"x": '"""Told."""\nasync def f():\n    """Told."""'},
            {"x": '"""Told."""\nclass A:\n    """Told."""\n    def __init__(self):\n        pass'},
            {"x": '"""Told."""\ndef _f():\n    pass'},
        ],
    )
    assert (
        find_untold({"x": '"""Told."""\nclass _A:\n    def f(self) -> None:\n        def g():\n            pass'}) == []
    )


# ---------------------------------------------------------------- names and prose
SHARED_NAMES = {
    "main": "every command has one",
    "add_arguments": "every command has one",
    "DESCRIPTION": "every command has one",
    "EXAMPLES": "every command has one",
    "log": "every module that logs has one",
    "T": "type variables",
}
"""Public names that several modules define, each with the reason."""


def public_names(tree: ast.Module) -> Iterator[str]:
    """Names that a module defines for others: classes, functions, constants, type aliases."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def find_shared_names(sources: Sources) -> Found:
    homes: dict[str, list[str]] = {}
    for module, source in sources.items():
        for name in sorted(set(public_names(parse(source)))):
            if not name.startswith("_") and name not in SHARED_NAMES:
                homes.setdefault(name, []).append(module)
    return [f"{name}: defined in {', '.join(modules)}" for name, modules in homes.items() if len(modules) > 1]


def test_a_public_name_is_defined_in_one_module() -> None:
    check(
        find_shared_names,
        [
            {"a": "class A:\n    pass", "b": "class A:\n    pass"},
            {"a": "def f() -> None:\n    pass", "b": "from x import y\nf = y"},
            {"a": "LIMIT = 1", "b": "LIMIT: int = 2"},
        ],
    )
    assert find_shared_names({"a": "_x = 1\nlog = 1", "b": "_x = 2\nlog = 2"}) == []


CLAUSES = ("What ", "Which ", "How ", "Who ", "Whom ", "Whose ", "When ", "Where ", "Why ")


def find_unconventional_text(sources: Sources) -> Found:
    """Docstrings that begin with a clause or use RST's double backticks, and imports of `annotations`."""
    found = []
    for module, source in sources.items():
        found += [f"{module}: imports __future__" for name in imports_of(source) if name == "__future__"]
        for text in docstrings_of(source):
            assert isinstance(text, ast.Constant)
            first = str(text.value).strip()
            if first.startswith(CLAUSES):
                found.append(f"{module}:{text.lineno}: {first[:40]!r} begins with a clause, expected a verb or a noun")
            if "``" in first:
                found.append(f"{module}:{text.lineno}: double backticks")
    return found


def test_docstrings_follow_one_convention() -> None:
    check(
        find_unconventional_text,
        [
            {"a": '"""What it does."""'},
            {"a": 'def f() -> None:\n    """Which of them."""'},
            {"a": '"""Read ``x``."""'},
            {"a": "from __future__ import annotations"},
        ],
    )


DIALECT = re.compile(
    r"\b((?i:hopeless|let go of|lets go of|is told|are told|was told|as patiently as|there is none|there are none"
    r"|by script|mended|in passing|nobody hears|is heard|for good)|none where|none if|none while)\b"
)


def find_dialect(sources: Sources) -> Found:
    """Words that a reader would have to learn before the code can be read; CONTRIBUTING.md has the plain ones."""
    return [
        f"{module}:{number}: {match[0]!r}"
        for module, source in sources.items()
        for number, line in enumerate(source.splitlines(), 1)
        for match in DIALECT.finditer(line)
    ]


def test_the_code_is_written_in_plain_english() -> None:
    check(find_dialect, [{"a": '"""The loop is told."""'}, {"a": "# A value, none where it is missing."}])


# ---------------------------------------------------------------- tests
def read_tests() -> dict[str, str]:
    """Every module of the tests, by its path from the root."""
    found = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    assert len(found) > 100, "the tests were found"
    return found


SUBJECT = re.compile(r"Tests `(?P<path>[\w./*-]+)`")


def find_tests_without_a_subject(sources: Sources) -> Found:
    """Test modules whose docstring does not begin with the file or folder that they test, or names none that exists."""
    found = []
    for path, source in sources.items():
        if not Path(path).name.startswith("test_"):
            continue
        match = SUBJECT.match(ast.get_docstring(parse(source)) or "")
        if match is None:
            found.append(f"{path}: does not begin with Tests `path`")
        elif not list(ROOT.glob(match["path"])):
            found.append(f"{path}: tests {match['path']}, which does not exist")
    return found


def test_each_test_module_names_what_it_tests() -> None:
    for broken in ('"""Rows."""', '"""Tests `streamd/core/nothing.py`: rows."""', ""):
        assert find_tests_without_a_subject({"tests/test_x.py": broken}), f"blind to {broken}"
    assert find_tests_without_a_subject({"tests/test_x.py": '"""Tests `streamd/cli.py`."""'}) == []
    assert find_tests_without_a_subject(read_tests()) == []


def find_imports_of_tests(sources: Sources) -> Found:
    return [
        f"{path}: imports {name}"
        for path, source in sources.items()
        for name in imports_of(source)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split(".")[:-1])
    ]


def test_no_test_module_is_imported() -> None:
    assert find_imports_of_tests({"tests/x.py": "from tests.core.test_rows import make"})
    assert find_imports_of_tests(read_tests()) == []


# ---------------------------------------------------------------- errors
CODES = {
    *("internal", "invalid", "malformed", "unsupported_media_type", "too_large", "invalid_sample", "invalid_server"),
    *("invalid_time", "invalid_value", "too_old", "too_far_ahead", "invalid_tensor", "all_missing"),
    *("invalid_selection", "unknown_server", "unavailable", "too_busy", "draining", "storage", "inference_failed"),
    *("lane_lost", "forecast_not_finite", "config", "repository", "backend_unavailable", "state"),
    *("build_failed", "forbidden", "unauthorized", "reload_refused"),
    *("rate_limited", "too_many_servers"),
}
"""What the wire shows. Callers depend on them: one may be added, none may change or go."""

TELLS_ITS_PARENT_S_CODE = {
    "BatchFailedError",
    "CudaError",
    "DeviceLostError",
    "ForeignLayoutError",
    "LaterFormatError",
    "LogAwayError",
    "LogFullError",
    "LogGapError",
    "LogMissingError",
    "LogSettingsError",
    "NoAnswerError",
    "StateReplacedError",
    "UnsupportedEncodingError",
    "WrongSequenceError",
}
"""Errors that the wire need not tell from their parent."""


def all_errors(root: type[StreamdError]) -> list[type[StreamdError]]:
    """Return an error class and everything under it that the daemon's packages define."""
    below = [each for child in root.__subclasses__() for each in all_errors(child)]
    return [root, *(each for each in below if is_in(each.__module__, packages(*DAEMON)))]


def find_bad_codes(errors: Iterable[type[StreamdError]]) -> Found:
    found, seen = [], dict[str, str]()
    for error in errors:
        own = error.__dict__.get("code")
        if own is None:
            if error.__name__ not in TELLS_ITS_PARENT_S_CODE:
                found.append(f"{error.__name__}: has no code of its own")
            continue
        if not re.fullmatch(r"[a-z]+(_[a-z]+)*", own):
            found.append(f"{error.__name__}: {own!r} is not in snake_case")
        if own in seen:
            found.append(f"{error.__name__}: {own!r} is {seen[own]}'s")
        seen[own] = error.__name__
    return found


def import_errors() -> list[type[StreamdError]]:
    """Return every error of the package, whatever other tests have imported."""
    for module in read_sources():
        if is_in(module, packages("core", "inference", "runtime", "cluster", "server", "http")):
            importlib.import_module(module)
    return all_errors(StreamdError)


def test_every_error_has_a_code_of_its_own() -> None:
    errors = import_errors()
    assert len(errors) > 20
    for body in ({}, {"code": "Not Snake"}, {"code": "too_old"}):
        broken: Any = type("Broken", (Exception,), body)
        assert find_bad_codes([*errors, broken]), f"blind to {body}"
    assert find_bad_codes(errors) == []
    assert {error.code for error in errors} >= CODES, "a code is for ever"


def test_every_error_says_whether_to_retry() -> None:
    retried = {error.__name__ for error in import_errors() if error.retry}
    assert retried == {
        "UnavailableError",
        "TooBusyError",
        "RateLimitedError",
        "DrainingError",
        "NoCapacityError",
        "StorageError",
        "LaneLostError",
        "LogAwayError",
        "LogFullError",
        "LogMissingError",
        "NoAnswerError",
    }


# ---------------------------------------------------------------- settings
SETTING = re.compile(r"(?P<key>\w+) *= *(?P<value>[^#]+?) *# \S")


def find_bad_settings(text: str) -> Found:
    """What `config.toml` has wrong: settings that are missing, unknown, not the default, or without a comment."""
    found = []
    said = tomllib.loads(text)
    defaults = list_defaults()
    for section in sorted({*said, *defaults}):
        for key in sorted({*said.get(section, {}), *defaults.get(section, {})}):
            place = f"[{section}] {key}"
            if key not in defaults.get(section, {}):
                found.append(f"{place}: there is no such setting")
            elif key not in said.get(section, {}):
                found.append(f"{place}: missing")
            elif said[section][key] != _plain(defaults[section][key]):
                found.append(f"{place}: {said[section][key]!r} is not the default {defaults[section][key]!r}")
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return found + [f"{line}: has no comment" for line in lines if not SETTING.match(line)]


def list_defaults() -> dict[str, dict[str, Any]]:
    """The defaults by section and key. Tables with names of their own, of `[mapping]` and of rules, are no key."""
    defaults: dict[str, dict[str, Any]] = msgspec.to_builtins(Config())
    assert defaults["mapping"].pop("tables") == {}
    assert defaults["alerts"].pop("rules") == {}
    return defaults


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_config_toml_has_every_setting_with_its_default_and_a_comment() -> None:
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    assert 'host = "127.0.0.1"' in text
    for old, new in (
        ("port = 8002", "port = 8003"),
        ("[log]", "[log]\nunknown = 1 # a setting that there is not"),
        ('log_format = "auto"', "# log_format"),
        ("# 0: any free port (it is logged)", ""),
    ):
        assert old in text
        assert find_bad_settings(text.replace(old, new)), f"blind to {new!r}"
    assert find_bad_settings(text) == []


def find_repeated_keys(sections: Mapping[str, Iterable[str]]) -> Found:
    keys = [key for section in sections.values() for key in section]
    return [f"{key}: in two sections" for key in sorted(set(keys)) if keys.count(key) > 1]


def test_a_key_is_in_one_section_only() -> None:
    assert find_repeated_keys({"a": ["port", "host"], "b": ["port"]}) == ["port: in two sections"]
    sections = {section: list(keys) for section, keys in list_defaults().items()}
    assert find_repeated_keys(sections) == []
    assert {key: section for section, keys in sections.items() for key in keys} == SECTIONS


def test_every_setting_of_the_command_line_is_one_of_the_file() -> None:
    source = read_sources()["streamd.cli"]
    flags = set(re.findall(r'add_argument\(\s*"--([a-z-]+)"', source)) - {"config", "version"}
    keys = {"cluster": "nats"}  # a flag says what it makes of the daemon, its key what the value is
    assert {keys.get(flag, flag.replace("-", "_")) for flag in flags} <= set(SECTIONS)
    assert len(flags) >= 7
