"""Tests `docs` and the other documents against the code: tables in both directions, names, links, commands, lengths.

Each guard is a function that returns what is wrong; it is tried on a broken copy first.
"""

import argparse
import ast
import importlib
import json
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamd import cli
from streamd.core import errors
from streamd.core.access.access_list import AccessList
from streamd.core.contract import INPUT_TYPES
from streamd.core.errors import InvalidInputError, StreamdError
from streamd.core.names import BackendName
from streamd.http.access.origins import OriginPolicy
from streamd.http.access.token_metrics import TokenMetrics
from streamd.http.app import make_http_app
from streamd.http.errors import choose_status
from streamd.http.requests import TransportLimits
from streamd.http.subscriptions import parse_query
from streamd.server.config import SECTIONS, Config, load_config
from streamd.tools.engine.command import SUBCOMMANDS
from streamd.tools.loadtest.errors import Exit
from tests.support.cluster_parts import make_unjoined_part
from tests.support.document_commands import blocks_of, commands_in, inline_of, is_command, plain, problems_of
from tests.support.document_tables import (
    ROOT,
    code_spans,
    read,
    read_table,
    read_tables,
    render_settings,
    with_settings,
)
from tests.support.http_harness import CONTRACT, HttpDaemon, HttpDaemonSettings, run_http_daemon

Found = list[str]
"""What is wrong with a document, one sentence each."""

DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/**/*.md", "licenses/*.md")
    for path in ROOT.glob(pattern)
    if "results" not in path.parts
)
GUIDES = [name for name in DOCUMENTS if name.startswith("docs/") or "/" not in name]
"""The documents that describe the code; the others describe data and measurements."""

HISTORY = {"CHANGELOG.md"}
"""Documents that may name what is no longer there."""

Edit = tuple[str, str]


def check(guard: Callable[[str], Found], text: str, *broken: Edit) -> None:
    """Check that a guard finds each `(old, new)` replacement in a text, and then nothing in the text itself."""
    assert broken
    for old, new in broken:
        assert old in text, f"{old!r} is not in the document, so it cannot be broken"
        assert guard(text.replace(old, new, 1)), f"the guard does not notice {old!r} -> {new!r}"
    assert guard(text) == []


def differences(what: str, documented: Iterable[object], known: Iterable[object]) -> Found:
    """Return what only one side has, and what the document has twice."""
    listed, code = list(documented), set(known)
    twice = {each for each in listed if listed.count(each) > 1}
    return [
        *(f"{what} {each}: not in the document" for each in sorted(map(str, code - set(listed)))),
        *(f"{what} {each}: not in the code" for each in sorted(map(str, set(listed) - code))),
        *(f"{what} {each}: twice in the document" for each in sorted(map(str, twice))),
    ]


def bare(cell: str) -> str:
    """Return a table's cell without its backticks."""
    return cell.strip("`")


def test_the_documents_are_found() -> None:
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/wire.md"} <= set(GUIDES)
    assert {"benchmarks/gpu/RESULTS.md", "examples/fleet/README.md"} <= set(DOCUMENTS)


def test_a_table_is_read_by_its_headings() -> None:
    text = "text\n\n| a | b |\n|---|---|\n| 1 | `x\\|y` |\n\n| c |\n|---|\n| 3 |\n"
    assert list(read_tables(text)) == [[{"a": "1", "b": "`x|y`"}], [{"c": "3"}]]
    assert read_table(text, "c") == [{"c": "3"}]
    with pytest.raises(AssertionError):
        read_table(text, "d")


# ---------------------------------------------------------------- length and words
def find_length(text: str, limit: int) -> Found:
    count = len(text.split())
    return [] if count <= limit else [f"{count} words, at most {limit}"]


@pytest.mark.parametrize(("document", "limit"), [("README.md", 900), ("ARCHITECTURE.md", 1_500)])
def test_documents_for_newcomers_are_short(document: str, limit: int) -> None:
    text = read(document)
    first = text.split()[0]
    check(lambda each: find_length(each, limit), text, (first, "word " * limit))


AVOIDED = re.compile(
    r"\b(told|hopeless|let go|lets go|none where|nobody|whoever|said|as patiently|the house|rooms?|doors)\b",
    re.IGNORECASE,
)


def find_avoided_words(text: str) -> Found:
    """Return the words that `CONTRIBUTING.md` replaces; its own table must name them."""
    text = text.split("## Plain words")[0]
    return [
        f"{match[0]}: ...{text[max(match.start() - 30, 0) : match.end() + 30]}..." for match in AVOIDED.finditer(text)
    ]


@pytest.mark.parametrize("document", [name for name in GUIDES if name not in HISTORY])
def test_guides_are_in_plain_words(document: str) -> None:
    text = read(document)
    first = text.split()[0]
    check(find_avoided_words, text, (first, f"{first} is told"), (first, f"Nobody {first}"))


def test_the_table_of_plain_words_is_there() -> None:
    rows = read_table(read("CONTRIBUTING.md"), "not", "but")
    assert 25 <= len(rows) <= 40
    assert all(row["not"] and row["but"] for row in rows)


# ---------------------------------------------------------------- errors
NOT_ON_THE_WIRE = {errors.ConfigError, errors.StateError, errors.BuildError}
"""Errors of the start and of `streamd engine`: no call answers them."""

START_UP = NOT_ON_THE_WIRE | {errors.RepositoryError, errors.BackendUnavailableError}
"""Errors that a start may end with."""

SAMPLE_ERRORS = {
    *(errors.InvalidSampleError, errors.InvalidServerError, errors.InvalidTimeError, errors.InvalidValueError),
    *(errors.TooOldError, errors.TooFarAheadError, errors.StorageError, errors.TooManyServersError),
    errors.NoCapacityError,
}
"""Errors of one sample: they are in `errors` of an answer, beside the samples that were taken."""


def error_classes() -> set[type[StreamdError]]:
    classes, todo = set[type[StreamdError]](), [StreamdError]
    while todo:
        each = todo.pop()
        if each.__module__.startswith("streamd."):
            classes.add(each)
        todo += each.__subclasses__()
    return classes


def wire_codes() -> set[str]:
    return {each.code for each in error_classes()} - {each.code for each in START_UP}


def find_wrong_errors(text: str) -> Found:
    """Compare both tables of errors with the classes: code, HTTP status, and whether to retry."""
    sample_codes = {each.code for each in SAMPLE_ERRORS}
    elsewhere = sample_codes | {each.code for each in NOT_ON_THE_WIRE}
    classes = {each for each in error_classes() if each.code not in elsewhere}
    known = {(each.code, choose_status(each.__new__(each)), each.retry) for each in classes}
    calls = read_table(text, "code", "HTTP", "retry")
    documented = [(bare(row["code"]), int(row["HTTP"]), row["retry"] == "yes") for row in calls]
    samples = [bare(row["code"]) for row in sample_table(text)]
    return differences("error", documented, known) + differences("error of a sample", samples, sample_codes)


def sample_table(text: str) -> list[dict[str, str]]:
    (section,) = re.findall(r"\*\*Errors of one sample\.\*\*(.*?)\*\*Errors of the HTTP server", text, re.DOTALL)
    return read_table(section, "code", "meaning")


def test_wire_lists_every_error_with_its_status() -> None:
    row = "| `draining` | 503 | yes | the daemon is stopping |\n"
    check(
        find_wrong_errors,
        read("docs/wire.md"),
        (row, ""),
        (row, row + row),
        (row, row.replace("draining", "straining")),
        ("| `lane_lost` | 503 |", "| `lane_lost` | 500 |"),
        ("| `too_busy` | 429 | yes |", "| `too_busy` | 429 | no |"),
        ("| `storage` |", "| `stowage` |"),
    )


def test_wire_names_every_code() -> None:
    named = set(re.findall(r"`([a-z_]+)`", read("docs/wire.md")))
    assert wire_codes() - named == set()
    assert {each.code for each in START_UP} - named == set()


def test_errors_of_a_sample_are_of_the_sender_but_for_the_disk_the_capacity_and_its_rights() -> None:
    others = {each for each in SAMPLE_ERRORS if not issubclass(each, InvalidInputError)}
    assert others == {errors.NoCapacityError, errors.StorageError, errors.TooManyServersError}


# ---------------------------------------------------------------- settings
def find_wrong_settings(text: str) -> Found:
    """Compare the table of settings with `config.toml` and with the defaults of the code."""
    rows = read_table(text, "section", "key", "default", "meaning")
    documented = [
        (bare(row["section"]), bare(row["key"]), repr(tomllib.loads(f"x = {bare(row['default'])}")["x"]))
        for row in rows
    ]
    known = [
        (section, key, repr(list(value) if isinstance(value, tuple) else value))
        for section, keys in msgspec.to_builtins(Config()).items()
        for key, value in keys.items()
        if key in SECTIONS
    ]
    generated = [] if text == with_settings(text, read("config.toml")) else ["the table is not that of config.toml"]
    return differences("setting", documented, known) + generated


def test_settings_are_those_of_the_code_and_of_config_toml() -> None:
    row = next(line for line in read("docs/settings.md").splitlines(keepends=True) if "`port`" in line)
    check(
        find_wrong_settings,
        read("docs/settings.md"),
        (row, ""),
        (row, row.replace("8002", "8003")),
        (row, row.replace("`port`", "`harbour`")),
        (row, row.replace("any free port", "a free port")),
        ("`server` | `port`", "`state` | `port`"),
    )


def test_a_setting_without_a_comment_is_noticed() -> None:
    assert "`port`" in render_settings("[server]\nport = 8002 # where\n")
    with pytest.raises(AssertionError):
        render_settings("[server]\nport = 8002\n")


def test_settings_name_every_flag_of_serve() -> None:
    def guard(text: str) -> Found:
        (line,) = re.findall(r"\*\*Flags:\*\*.*?\n- ", text, re.DOTALL)
        return differences("flag", set(re.findall(r"--[a-z-]+", line)), options_of(["serve"]) - {"--help"})

    check(guard, read("docs/settings.md"), ("`--state-dir`, ", ""), ("`--state-dir`", "`--state`"))


# ---------------------------------------------------------------- a daemon that runs
@pytest.fixture
async def daemon(tmp_path: Path) -> Any:
    async with run_http_daemon(tmp_path / "state", HttpDaemonSettings()) as each:
        yield each


def find_wrong_metrics(text: str, exposition: str, labels: Mapping[str, tuple[str, ...]]) -> Found:
    """Compare the table of metrics with the text that a daemon exposes, and with the labels of its families."""
    known = set()
    for family in text_string_to_metric_families(exposition):
        if not family.name.endswith("_created"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            known.add((name, family.type, labels.get(family.name, ())))
    rows = read_table(text, "metric", "type", "labels", "meaning")
    documented = [(bare(row["metric"]), row["type"], tuple(code_spans(row["labels"]))) for row in rows]
    return differences("metric", documented, known)


async def test_operation_lists_every_metric(daemon: HttpDaemon) -> None:
    exposition = (await daemon.call("GET", "/metrics")).data.decode()
    families = [*daemon.service.metrics.collect(), *TokenMetrics(AccessList()).collect()]
    labels = {family.name: tuple(getattr(family, "_labelnames", ())) for family in families}
    check(
        lambda text: find_wrong_metrics(text, exposition, labels),
        read("docs/operation.md"),
        ("| `streamd_due` | gauge |", "| `streamd_due` | counter |"),
        ("| `streamd_due` | gauge |", "| `streamd_do` | gauge |"),
        ("| `streamd_samples_total` | counter | `result` |", "| `streamd_samples_total` | counter | |"),
        ("| `streamd_lanes` | gauge | | lanes that can run |\n", ""),
    )


async def test_cluster_lists_every_metric_that_a_node_has_beside_those_of_a_daemon(
    daemon: HttpDaemon, tmp_path: Path
) -> None:
    alone = {family.name for family in daemon.service.metrics.collect()}
    async with run_http_daemon(tmp_path / "node", HttpDaemonSettings(cluster=make_unjoined_part())) as node:
        exposition = (await node.call("GET", "/metrics")).data.decode()
        families = [family for family in node.service.metrics.collect() if family.name not in alone]
    labels = {family.name: tuple(getattr(family, "_labelnames", ())) for family in families}
    own = "".join(
        part
        for part in re.split(r"(?=^# HELP )", exposition, flags=re.MULTILINE)
        if part.split()[2:3] and (part.split()[2].removesuffix("_total") in labels)
    )
    check(
        lambda text: find_wrong_metrics(text, own, labels),
        read("docs/cluster.md"),
        ("| `streamd_cluster_fence` | gauge | `shard` |", "| `streamd_cluster_fence` | gauge | |"),
        ("| `streamd_cluster_nodes` | gauge |", "| `streamd_cluster_knots` | gauge |"),
    )


async def test_operation_lists_every_state_of_rows(daemon: HttpDaemon) -> None:
    states = (await daemon.status())["rows"]

    def guard(text: str) -> Found:
        return differences("state", [bare(row["state"]) for row in read_table(text, "state")], states)

    row = "| `superseded` | a newer row of the same server replaced it, or a newer forecast was posted first |\n"
    check(guard, read("docs/operation.md"), (row, ""), (row, row.replace("superseded", "replaced")))


async def test_metrics_to_watch_are_metrics(daemon: HttpDaemon) -> None:
    exposition = (await daemon.call("GET", "/metrics")).data.decode()
    shown = set(re.findall(r"^# TYPE (\w+)", exposition, re.MULTILINE))

    def guard(text: str) -> Found:
        named = re.findall(r"\bstreamd_[a-z_]*[a-z](?![a-z_*])", text)
        return [f"{name}: there is no such metric" for name in named if name not in shown]

    check(guard, read("docs/operation.md"), ("`streamd_ready`", "`streamd_steady`"))


def find_wrong_routes(text: str, routes: Iterable[str]) -> Found:
    return differences("route", [bare(row["call"]) for row in read_table(text, "call", "what it does")], routes)


async def test_wire_lists_every_route(daemon: HttpDaemon) -> None:
    changes: Any = object()
    app = make_http_app(daemon.service, TransportLimits(), changes, access=AccessList(), origins=OriginPolicy()).app
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    assert len(routes) > 10
    check(
        lambda text: find_wrong_routes(text, routes),
        read("docs/wire.md"),
        ("| `GET /v1/ingest` |", "| `POST /v1/ingest` |"),
        ("| `DELETE /v1/engines/candidate` | ends the candidate |\n", ""),
        ("| `GET /v1/forecasts/{server}` |", "| `GET /v1/forecasts/{name}` |"),
    )


async def test_every_status_key_is_in_wire(daemon: HttpDaemon) -> None:
    shown = set(await daemon.status())
    sources = "".join(
        path.read_text(encoding="utf-8")
        for part in ("runtime", "server")
        for path in (ROOT / "streamd" / part).rglob("*.py")
    )

    def guard(text: str) -> Found:
        keys = [bare(row["key"]) for row in read_table(text, "key", "content")]
        # The composition root adds keys that the harness does not have: for these the source is the witness.
        return differences("status key", keys, shown | {key for key in keys if f'"{key}"' in sources})

    row = "| `due` | servers that wait for their turn |\n"
    check(guard, read("docs/wire.md"), (row, ""), (row, row + row), (row, row.replace("`due`", "`overdue_servers`")))


async def test_errors_of_the_http_server_are_as_documented(daemon: HttpDaemon) -> None:
    replies = [
        await daemon.get("/v1/nothing"),
        await daemon.call("PUT", "/v1/samples"),
        await daemon.call("GET", "/v1/servers", headers={"Expect": "tea"}),
        await daemon.call("GET", "/v1/ingest"),
    ]
    answered = {(reply.code, reply.status) for reply in replies}
    assert "Allow" in replies[1].headers

    def guard(text: str) -> Found:
        section = text.split("**Errors of the HTTP server**")[1].split("\n## ")[0]
        rows = read_table(section, "code", "HTTP")
        return differences("code", [(bare(row["code"]), int(row["HTTP"])) for row in rows], answered)

    check(guard, read("docs/wire.md"), ("| `not_found` | 404 |", "| `not_found` | 400 |"))


async def test_readiness_is_as_documented(tmp_path: Path) -> None:
    async with run_http_daemon(tmp_path / "state", HttpDaemonSettings(lanes=0)) as daemon:
        reply = await daemon.get("/readyz")
        assert (reply.status, reply.body["status"]) == (503, "starting")
        daemon.open_lanes(1)
        reply = await daemon.get("/readyz")
        assert (reply.status, reply.body["status"]) == (200, "ready")
    source = read("streamd/http/routes/health.py")
    (row,) = (row for row in read_table(read("docs/operation.md"), "probe") if "readyz" in row["probe"])
    states = set(re.findall(r"`([a-z_]+)`", row["answer"])) | {"ready"}
    assert states == set(re.findall(r'"(ready|starting|no_lane|draining)"', source))


# ---------------------------------------------------------------- the wire
def test_wire_lists_every_kind_of_frame() -> None:
    paths = [path for path in (ROOT / "streamd" / "http").rglob("*.py") if path.parent.name != "documents"]
    paths.append(ROOT / "streamd" / "runtime" / "fleet" / "frames.py")
    sources = "".join(path.read_text(encoding="utf-8") for path in paths)  # the documents have types of JSON Schema
    kinds = set(re.findall(r'"type": "([a-z-]+)"|type: Literal\["([a-z-]+)"\]', sources))
    kinds = {kind for pair in kinds for kind in pair if kind}
    assert len(kinds) > 5

    def guard(text: str) -> Found:
        return differences("frame", [bare(row["`type`"]) for row in read_table(text, "`type`", "direction")], kinds)

    row = "| `ack` | from the daemon | the answer to a frame of samples |\n"
    check(guard, read("docs/wire.md"), (row, ""), (row, row.replace("ack", "nack")))


def test_wire_lists_every_field_of_a_subscription() -> None:
    with pytest.raises(errors.InvalidSelectionError) as caught:
        parse_query(CONTRACT, [("unknown_parameter", "1")])
    known = set(ast.literal_eval(str(caught.value).rpartition("expected some of ")[2]))

    def guard(text: str) -> Found:
        return differences("field", [bare(row["field"]) for row in read_table(text, "field", "meaning")], known)

    check(guard, read("docs/wire.md"), ("| `every` |", "| `each` |"), ("| `format` |", "| `dtype` |"))


@pytest.mark.parametrize(
    ("document", "heading", "extra"), [("docs/wire.md", "input", set()), ("docs/models.md", "tensor", {"predictions"})]
)
def test_tensors_are_those_of_the_contract(document: str, heading: str, extra: set[str]) -> None:
    known = {*INPUT_TYPES, *extra}

    def guard(text: str) -> Found:
        return differences("tensor", [bare(row[heading]) for row in read_table(text, heading)], known)

    check(guard, read(document), ("| `decoder_cat` |", "| `decoder_dog` |"))


# ---------------------------------------------------------------- packages
def documented_packages(text: str) -> list[str]:
    """Return the packages of the tree that `ARCHITECTURE.md` draws, as paths below `streamd`."""
    (tree,) = re.findall(r"```\nstreamd/\n(.*?)```", text, re.DOTALL)
    found, parents = [], list[str]()
    for line in tree.splitlines():
        indent, name = re.fullmatch(r"    ((?:    )*)(\S+).*", line).groups()  # type: ignore[union-attr]
        if name.endswith("/"):
            parents[len(indent) // 4 :] = [name.strip("/")]
            found.append("/".join(parents))
        else:
            assert (ROOT / "streamd" / name).is_file(), f"{name}: no such module"
    return found


def real_packages() -> set[str]:
    folders = (path.parent.relative_to(ROOT / "streamd") for path in (ROOT / "streamd").rglob("__init__.py"))
    return {folder.as_posix() for folder in folders} - {"."}


def test_architecture_draws_every_package() -> None:
    def guard(text: str) -> Found:
        return differences("package", documented_packages(text), real_packages())

    check(
        guard,
        read("ARCHITECTURE.md"),
        ("        scheduling/ ", "        schedules/ "),
        ("    fleets/ ", "    navies/ "),
        ("    repository/ ", "    server/ "),
        ("        accuracy/ ", "        state/ "),
    )


def find_wrong_transitions(text: str, known: Mapping[str, Iterable[str]]) -> Found:
    """Compare the states that `ARCHITECTURE.md` lists with those that may follow each state."""
    lines = re.findall(r"^([A-Z]+) +→ ([A-Z, ]+)$", text, re.MULTILINE)
    documented = {(state, each) for state, following in lines for each in following.split(", ")}
    return differences(
        "transition", documented, {(state, each) for state, following in known.items() for each in following}
    )


def test_architecture_lists_every_state_of_a_deployment() -> None:
    module = importlib.import_module("streamd.runtime.lanes.deployment")
    if not hasattr(module, "TRANSITIONS"):
        pytest.xfail("a deployment has no explicit state yet")
    known = {state.name: [each.name for each in following] for state, following in module.TRANSITIONS.items()}
    check(
        lambda text: find_wrong_transitions(text, known),
        read("ARCHITECTURE.md"),
        ("SERVING, RETIRING", "SERVING"),
        ("LOADING  → WARM", "LOADING  → SERVING"),
    )


def test_wrong_transitions_are_noticed() -> None:
    known = {"LOADING": ["WARM"], "WARM": []}
    assert find_wrong_transitions("LOADING → WARM\n", known) == []
    assert find_wrong_transitions("LOADING → WARM, CLOSED\n", known)
    assert find_wrong_transitions("WARM → LOADING\n", known)


# ---------------------------------------------------------------- what documents name
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
PROGRAM_TEXT = re.compile(r"^```.*?^```|^    .*?$", re.MULTILINE | re.DOTALL)


def anchors_of(text: str) -> set[str]:
    """Return the anchors of the headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.*)$", PROGRAM_TEXT.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_broken_links(document: str, text: str) -> Found:
    found = []
    for target in LINK.findall(PROGRAM_TEXT.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        if not path.exists():
            found.append(f"{document}: {target}: no such file")
        elif anchor and anchor not in anchors_of(text if not name else path.read_text(encoding="utf-8")):
            found.append(f"{document}: {target}: no such heading")
    return found


def test_broken_links_are_noticed() -> None:
    assert find_broken_links("docs/wire.md", "[a](nothing.md)")
    assert find_broken_links("docs/wire.md", "[a](operation.md#nothing)")
    assert find_broken_links("docs/wire.md", "# One\n[a](#two)")
    fine = "# One two\n[a](#one-two) [b](operation.md#metrics) [c](../README.md) [d](https://example.org/nothing)"
    assert find_broken_links("docs/wire.md", fine) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_resolve(document: str) -> None:
    assert find_broken_links(document, read(document)) == []


def test_every_guide_is_linked_from_an_index() -> None:
    for index, below in (("docs/README.md", "docs/*.md"), ("docs/decisions/README.md", "docs/decisions/*.md")):
        folder = (ROOT / index).parent
        linked = {(folder / target.partition("#")[0]).resolve() for target in LINK.findall(read(index))}
        missing = {path.name for path in ROOT.glob(below) if path.resolve() not in linked} - {"README.md"}
        assert missing == set()


PATHS = re.compile(
    r"(?<![\w/.-])(?:streamd|tests|scripts|benchmarks|systemd|docs|examples|licenses|\.ci"
    r"|core|runtime|http|server|inference|repository|tools)/[\w./-]*[\w/]"
)


def find_missing_files(text: str) -> Found:
    """Return the files and folders that a text names and that are not there; a module may lack its `streamd/`."""
    names = sorted(set(PATHS.findall(text)))
    missing = [name for name in names if not ((ROOT / name).exists() or (ROOT / "streamd" / name).exists())]
    return [f"{name}: no such file or folder" for name in missing]


def test_missing_files_are_noticed() -> None:
    assert find_missing_files("see `streamd/core/nothing.py`")
    assert find_missing_files("see core/nothing/ there")
    assert find_missing_files("see `core/state/windows.py`, streamd/core/, `scripts/replay.py`.") == []


@pytest.mark.parametrize("document", sorted({*DOCUMENTS} - HISTORY))
def test_files_that_documents_name_are_there(document: str) -> None:
    text = LINK.sub("", read(document))
    text = re.sub(r"https?://\S+|github\.com/\S+|/(?:opt|etc|var|dev)/\S*|ws://\S+", "", text)
    text = re.sub(r"`" + re.escape("streamd/...") + r"`", "", text)
    assert find_missing_files(text) == []


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md"])
def test_the_main_documents_name_files(document: str) -> None:
    assert PATHS.findall(read(document))


def find_unknown_targets(text: str) -> Found:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    spans = [*code_spans(text), *re.findall(r"^    (.*)$", text, re.MULTILINE)]
    named = {name for span in spans for name in re.findall(r"\bmake ([a-z-]+)", span)}
    return [f"make {name}: no such target" for name in sorted(named - targets)]


@pytest.mark.parametrize("document", GUIDES)
def test_make_targets_are_there(document: str) -> None:
    assert find_unknown_targets("run `make nothing`")
    assert find_unknown_targets("\n    make nothing\n")
    assert find_unknown_targets(read(document)) == []


def test_make_targets_that_readme_names_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)", read("README.md")))
    assert {"demo", "test", "lint", "bench"} <= named & targets


def test_contributing_lists_every_target() -> None:
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)

    def guard(text: str) -> Found:
        return differences("target", [bare(row["command"]) for row in read_table(text, "command")], named)

    named = [f"make {target}" for target in targets]
    check(guard, read("CONTRIBUTING.md"), ("| `make lock` |", "| `make locks` |"))


# ---------------------------------------------------------------- commands
def commands() -> set[str]:
    """Return the subcommands of `streamd`."""
    actions = cli.make_parser()._actions
    (choices,) = (each.choices for each in actions if isinstance(each, argparse._SubParsersAction))
    return set(choices)


def options_of(command: list[str]) -> set[str]:
    """Return the options that the help of a command of `streamd` names."""
    program = [sys.executable, "-m", "streamd", *command, "--help"]
    ran = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"--[a-z][a-z0-9-]*", ran.stdout))


EXTRAS_OF = {"train": "train", "release": "train", "evaluate": "train"}
"""The extra that a command of `streamd` needs; those of `streamd engine` say it themselves."""

WITHOUT_A_VENV = ("make", "curl", "systemctl", ".")


def extra_of(words: tuple[str, ...]) -> str | None:
    """Return the extra that a command needs, or `None`."""
    program, *rest = plain(words)
    if program != "streamd" or not rest:
        return None
    if rest[0] != "engine" or len(rest) == 1:
        return EXTRAS_OF.get(rest[0])
    summary = next((text for name, _, text in SUBCOMMANDS if name == rest[1]), "")
    extra = re.search(r"\(extra: (\w+)\)", summary)
    return extra[1] if extra else None


def commands_of_documents() -> list[tuple[str, tuple[str, ...], str]]:
    """Return each command of each document: the document, the words, and the section up to the command."""
    return [
        (document, words, before)
        for document in DOCUMENTS
        for block, before in blocks_of(read(document))
        for words in commands_in(block)
    ]


def test_indented_blocks_show_nothing_but_known_commands() -> None:
    unknown = [(place, words) for place, words, _ in commands_of_documents() if not is_command(words)]
    assert unknown == []
    assert len({place for place, _, _ in commands_of_documents()}) >= 5


def test_the_parser_of_every_command_takes_it() -> None:
    shown = [(place, words) for place, words, _ in commands_of_documents()]
    assert len(shown) > 40
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


def test_a_fenced_block_is_no_shell_block() -> None:
    text = "# A\n\n```python\nwith x:\n    y()\n```\n\n    make test\n"
    assert [block for block, _ in blocks_of(text)] == ["make test"]


def test_a_command_stands_beside_the_extras_that_it_needs() -> None:
    needed = 0
    without = []
    for place, words, before in commands_of_documents():
        extra = extra_of(words)
        installed = {name for found in re.findall(r"\.\[([\w,]+)\]", before) for name in found.split(",")}
        needed += extra is not None
        if extra is not None and extra not in installed:
            without.append((place, words, extra))
    assert needed > 8
    assert without == []


def test_a_command_names_the_python_that_runs_it() -> None:
    bare_words = [
        (place, words)
        for place, words, before in commands_of_documents()
        if not words[0].startswith((".venv/", *WITHOUT_A_VENV))
        if ". .venv/bin/activate" not in before
    ]
    assert bare_words == []


def test_every_extra_that_the_code_names_is_there() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    sources = [*(ROOT / "streamd").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    named = {
        found for path in sources for found in re.findall(r"streamd\[([\w,]+)\]", path.read_text(encoding="utf-8"))
    }
    assert {extra for each in named for extra in each.split(",")} <= set(project["optional-dependencies"])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_fenced_code_is_what_it_says(document: str, tmp_path: Path) -> None:
    fences = re.findall(r"^```(\w*)\n(.*?)^```", read(document), re.MULTILINE | re.DOTALL)
    for language, code in fences:
        assert language in ("", "python", "json", "text", "toml"), f"{language}: a language that is not checked"
        if language == "python":
            compile(code, document, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)  # as in the prompt of `python -m asyncio`
        elif language == "json":
            json.loads(code)
        elif language == "toml":  # settings of the daemon
            settings = tmp_path / "config.toml"
            settings.write_text(code, encoding="utf-8")
            load_config(settings, environ={})


def find_unknown_commands(text: str) -> Found:
    """Return the subcommands that the prose of a document names and `streamd` does not have."""
    found = []
    for span in inline_of(text):
        program, *rest = [*span.split(), ""]
        if program != "streamd" or not re.fullmatch("[a-z]+", rest[0]):
            continue
        if rest[0] not in commands():
            found.append(f"streamd {rest[0]}: no such command")
        elif (
            rest[0] == "engine"
            and re.fullmatch("[a-z]+", rest[1])
            and rest[1] not in {name for name, *_ in SUBCOMMANDS}
        ):
            found.append(f"streamd engine {rest[1]}: no such command")
    return found


@pytest.mark.parametrize("document", sorted({*DOCUMENTS} - HISTORY))
def test_commands_that_the_prose_names_are_there(document: str) -> None:
    assert find_unknown_commands("`streamd swerve`")
    assert find_unknown_commands("`streamd engine\nswerve --json`")
    found = find_unknown_commands(read(document))
    if "replay" not in commands() and found and set(found) == {"streamd replay: no such command"}:
        pytest.xfail("`streamd replay` is not a command yet")
    assert found == []


def find_wrong_engine_commands(text: str) -> Found:
    """Compare the table of `streamd engine` with its subcommands and the extras that they name."""
    known = []
    for name, _, summary in SUBCOMMANDS:
        extra = re.search(r"\(extra: (\w+)\)", summary)
        known.append((f"streamd engine {name}", extra[1] if extra else "none"))
    rows = read_table(text, "command", "what it does", "extra")
    documented = [(bare(row["command"]), bare(row["extra"].partition(";")[0])) for row in rows]
    return differences("command", documented, known)


def test_engine_commands_are_listed_with_their_extras() -> None:
    row = "| `streamd engine gc` |"
    check(
        find_wrong_engine_commands,
        read("docs/gpus-and-engines.md"),
        (row, "| `streamd engine clean` |"),
        (row, "| `streamd engine list` |"),
        ("in one command | `train` |", "in one command | none |"),
    )


def test_backends_are_listed_in_the_order_of_the_chain() -> None:
    def guard(text: str) -> Found:
        chain = [bare(row["backend"]) for row in read_table(text, "backend", "runs", "needs")]
        known = [name for name in get_args(BackendName) if name != "auto"]
        return [] if chain == known else [f"the chain is {chain}, expected {known}"]

    check(guard, read("docs/gpus-and-engines.md"), ("| `tensorrt` |", "| `onnxruntime-cpu` |"))


def test_exit_statuses_of_the_replayer_are_listed() -> None:
    if 4 not in list(map(int, Exit)):
        pytest.xfail("the replayer does not end with 4 yet if it verified nothing")

    def guard(text: str) -> Found:
        rows = read_table(text, "exit status", "meaning")
        return differences("exit status", [int(row["exit status"]) for row in rows], map(int, Exit))

    check(guard, read("docs/load-test.md"), ("| 3 | no daemon answered |\n", ""), ("| 130 |", "| 131 |"))


# ---------------------------------------------------------------- decisions
def find_bad_decision(name: str, text: str) -> Found:
    """A decision has its number, and its four parts in order."""
    parts = re.findall(r"^\*\*(\w+)\.\*\* \S", text, re.MULTILINE)
    found = (
        [] if parts == ["Context", "Decision", "Measurement", "Consequences"] else [f"{name}: its parts are {parts}"]
    )
    if not text.startswith(f"# {int(name[:3])}. "):
        found.append(f"{name}: its heading has not its number")
    return found


def test_decisions_have_a_number_and_four_parts() -> None:
    names = sorted(path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert [int(name[:3]) for name in names] == list(range(1, len(names) + 1))
    for name in names:
        text = read(f"docs/decisions/{name}")
        check(
            lambda each, name=name: find_bad_decision(name, each),  # type: ignore[misc]
            text,
            ("**Measurement.** ", "**Guess.** "),
            ("# ", "# 0"),
        )
