"""Guards of the house's structure. Each is tried on a synthetic source that breaks it: a guard must be able to fail."""

import ast
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


def imports_of(source: str) -> Iterator[str]:
    """Every name that is imported, wherever it stands: `from a.b import c` gives a.b and a.b.c."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are banned"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(name: str, rooms: Iterable[str]) -> bool:
    """Whether a module is one of these, or lies in one."""
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def check(guard: Callable[[Sources], Found], broken: Iterable[Sources]) -> None:
    """Run a guard over the package, once it has shown that it finds what is broken."""
    for sources in broken:
        assert guard(sources), f"the guard is blind to {sources}"
    assert guard(read_sources()) == []


# ---------------------------------------------------------------- who may know whom
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "streamd.core": (
        *("asyncio", "aiohttp", "uvloop", "socket", "select", "selectors", "ssl", "http"),
        *("threading", "_thread", "multiprocessing", "concurrent", "queue", "subprocess", "signal"),
        *("cuda", "tensorrt", "onnxruntime", "torch", "time", "mmap", "prometheus_client", "structlog"),
        *(f"streamd.{room}" for room in ("device", "repository", "runtime", "server", "transport", "cli")),
    ),
    "streamd.inference": tuple(f"streamd.{room}" for room in ("repository", "runtime", "server", "transport", "cli")),
    "streamd.repository": tuple(
        f"streamd.{room}" for room in ("device", "runtime", "server", "toolchain", "transport", "cli")
    ),
    "streamd.engine": tuple(f"streamd.{room}" for room in ("runtime", "server", "toolchain", "transport", "cli")),
    "streamd.tools.engine": ("streamd.runtime", "streamd.server", "streamd.http", "streamd.cli"),
    "streamd.runtime": ("aiohttp", "streamd.http", "streamd.server", "streamd.repository", "streamd.cli"),
    "streamd.http": ("streamd.inference", "streamd.server", "streamd.repository", "streamd.cli"),
    "streamd.server": ("streamd.cli",),
    "streamd.tools.networks": ("streamd.runtime", "streamd.server", "streamd.http", "streamd.inference"),
}
"""What each room may not import."""


def find_forbidden_imports(sources: Sources) -> Found:
    return [
        f"{module}: imports {name}"
        for module, source in sources.items()
        for room, forbidden in FORBIDDEN.items()
        if is_in(module, [room])
        for name in imports_of(source)
        if is_in(name, forbidden)
    ]


def test_rooms_know_only_what_they_may() -> None:
    check(
        find_forbidden_imports,
        [
            {"streamd.core.x": "import asyncio"},
            {"streamd.core.x": "import time"},
            {"streamd.core.x": "def f():\n    from time import monotonic"},
            {"streamd.core.x": "import cuda.bindings.runtime"},
            {"streamd.core.x": "from streamd import runtime"},
            {"streamd.core": "import threading"},
            {"streamd.http.x": "from streamd.inference.lane import Lane"},
            {"streamd.http.x": "if TYPE_CHECKING:\n    import streamd.server.config"},
            {"streamd.runtime.x": "from streamd.http import app"},
            {"streamd.runtime.x": "from streamd import server"},
        ],
    )
    assert find_forbidden_imports({"streamd.core.x": "import timeit_of_ours", "streamd.runtime.x": "import time"}) == []


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
        for node in ast.walk(ast.parse(source)):
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


COMPOSITION_ROOTS = ("streamd.server", "streamd.inference.api.backends")
"""Who names concrete backends: the daemon's root, and the one table of the library."""

CONCRETE_BACKENDS = re.compile(
    r"streamd\.device\.(onnxruntime_\w+|fake|tensorrt\w*)\b|\b(OnnxRuntime\w*|Fake|TensorRT\w*)Backend\b"
)


LIBRARIES = re.compile(r"streamd\.device\.\w+_library\b")
"""Foreign libraries, not backends: the toolchain builds with them, whatever serves."""


def find_named_backends(sources: Sources) -> Found:
    """Names of concrete backends outside of the composition root: imported, used, or spelled out for importlib."""
    found = []
    for module, source in sources.items():
        if is_in(module, COMPOSITION_ROOTS) or CONCRETE_BACKENDS.fullmatch(module):
            continue
        tree = ast.parse(source)
        docs = {id(text) for text in docstrings_of(tree)}
        words = [*imports_of(source)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                words.append(node.value)
            elif isinstance(node, ast.Name):
                words.append(node.id)
        if is_in(module, ["streamd.tools.engine"]):
            words = [word for word in words if not LIBRARIES.match(word)]
        found += [f"{module}: names {word}" for word in words if CONCRETE_BACKENDS.search(word)]
    return found


def docstrings_of(tree: ast.Module) -> Iterator[ast.expr]:
    """The docstrings of a module and of all in it: they may name what they like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.value


def test_only_the_composition_root_names_backends() -> None:
    check(
        find_named_backends,
        [
            {"streamd.runtime.x": "from streamd.inference.fake import forecast_of"},
            {"streamd.runtime.x": "from streamd.inference import onnxruntime_cpu"},
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
        for node in ast.walk(ast.parse(source)):
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
    """Run code in a fresh interpreter; returns which heavy modules it loaded."""
    command = [sys.executable, "-c", LOADED.format(code=code)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    loaded = json.loads(ran.stdout.splitlines()[-1])
    return [name for name in loaded if is_in(name, HEAVY)]


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["engine", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert heavy_modules(f"from streamd.cli import main; main({arguments!r})") == []


def test_what_is_loaded_is_seen() -> None:
    assert "numpy" in heavy_modules("import streamd.core.state.windows")


def test_core_loads_no_foreign_runtime() -> None:
    modules = [name for name in read_sources() if is_in(name, ["streamd.core"])]
    assert set(heavy_modules(f"import {', '.join(modules)}")) & {"aiohttp", "uvloop", "onnxruntime", "cuda"} == set()


# ---------------------------------------------------------------- told and typed
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
        tree = ast.parse(source)
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


# ---------------------------------------------------------------- errors
CODES = {
    *("internal", "invalid", "malformed", "unsupported_media_type", "too_large", "invalid_sample", "invalid_server"),
    *("invalid_time", "invalid_value", "too_old", "too_far_ahead", "invalid_tensor", "all_missing"),
    *("invalid_selection", "unknown_server", "unavailable", "too_busy", "draining", "storage", "inference_failed"),
    *("lane_lost", "forecast_not_finite", "config", "repository", "backend_unavailable", "state"),
    *("build_failed", "forbidden", "unauthorized", "reload_refused"),
}
"""What the wire shows. Callers depend on them: one may be added, none may change or go."""

TELLS_ITS_PARENT_S_CODE = {
    "BatchFailedError",
    "CudaError",
    "DeviceLostError",
    "ForeignLayoutError",
    "UnsupportedEncodingError",
}
"""Errors that the wire need not tell from their parent."""


def all_errors(root: type[StreamdError]) -> list[type[StreamdError]]:
    """An error class and everything under it that the package defines."""
    below = [each for child in root.__subclasses__() for each in all_errors(child)]
    return [root, *(each for each in below if each.__module__.startswith("streamd."))]


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


def test_every_error_has_a_code_of_its_own() -> None:
    for module in read_sources():
        if is_in(module, ["streamd.core", "streamd.inference", "streamd.runtime", "streamd.server", "streamd.http"]):
            importlib.import_module(module)
    errors = all_errors(StreamdError)
    assert len(errors) > 20
    for body in ({}, {"code": "Not Snake"}, {"code": "too_old"}):
        broken: Any = type("Broken", (Exception,), body)
        assert find_bad_codes([*errors, broken]), f"blind to {body}"
    assert find_bad_codes(errors) == []
    assert {error.code for error in errors} >= CODES, "a code is for ever"


def test_every_error_says_whether_to_retry() -> None:
    retried = {error.__name__ for error in all_errors(StreamdError) if error.retry}
    assert retried == {"UnavailableError", "TooBusyError", "DrainingError", "StorageError", "LaneLostError"}


# ---------------------------------------------------------------- settings
SETTING = re.compile(r"(?P<key>\w+) *= *(?P<value>[^#]+?) *# \S")


def find_bad_settings(text: str) -> Found:
    """What `config.toml` has wrong: settings that are missing, unknown, not the default, or without a comment."""
    found = []
    said = tomllib.loads(text)
    defaults = msgspec.to_builtins(Config())
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
    sections = {section: list(keys) for section, keys in msgspec.to_builtins(Config()).items()}
    assert find_repeated_keys(sections) == []
    assert {key: section for section, keys in sections.items() for key in keys} == SECTIONS


def test_every_setting_of_the_command_line_is_one_of_the_file() -> None:
    source = read_sources()["streamd.cli"]
    flags = set(re.findall(r'add_argument\(\s*"--([a-z-]+)"', source)) - {"config", "version"}
    assert {flag.replace("-", "_") for flag in flags} <= set(SECTIONS)
    assert len(flags) >= 7
