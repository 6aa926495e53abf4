"""Tests `streamd/web/assets`: the built page is that of its sources, small, whole, and loads nothing from elsewhere.

Needs no npm: `make web` builds, and writes down what it has built.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from streamd.web.files import load_page_files

ROOT = Path(__file__).parents[2]
PAGE, ASSETS = ROOT / "streamd/web/page", ROOT / "streamd/web/assets"

MAX_SCRIPT_BYTES = 150_000
"""Of all scripts of the page, compressed."""

SOURCES = (".npmrc", "index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")
SOURCE_FOLDERS = ("public", "src", "tooling")

HARMLESS_ADDRESSES = re.compile(r"http://www\.w3\.org/(2000/svg|1999/xhtml|1999/xlink|1998/Math/MathML)")
"""Names of XML: they look like addresses, and nothing is loaded from them."""


def digest_sources(root: Path) -> str:
    """Return the digest of the sources, as `tooling/bundled.ts` computes it."""
    inner = (path for folder in SOURCE_FOLDERS for path in (root / folder).rglob("*") if path.is_file())
    paths = [*SOURCES, *(path.relative_to(root).as_posix() for path in inner)]
    chosen = sorted(path for path in paths if not re.search(r"\.test\.tsx?$", path))
    lines = [f"{path} {hashlib.sha256((root / path).read_bytes()).hexdigest()}\n" for path in chosen]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Markup(HTMLParser):
    """What a document loads, and what is written in it that its policy forbids."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.forbidden: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loaded += [value for name in ("src", "href") if (value := given.get(name)) is not None]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.forbidden.append(f"<{tag}>")
        self.forbidden += [name for name in given if name == "style" or name.startswith("on")]


def find_addresses(text: str) -> Iterator[str]:
    """Yield each address of another site in a text."""
    for match in re.finditer(r"(?:https?|wss?)://[^\s\"'`)]+", text):
        if not HARMLESS_ADDRESSES.fullmatch(match[0]):
            yield match[0]


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ASSETS / "BUILD.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def index() -> str:
    return (ASSETS / "index.html").read_text(encoding="utf-8")


def test_the_built_page_is_that_of_its_sources(build: dict[str, Any]) -> None:
    assert build["sources"] == digest_sources(PAGE), "the page has changed since it was built: run make web"


def test_the_page_is_whole(index: str) -> None:
    assert load_page_files(ASSETS).problem is None
    loaded = Markup(index).loaded
    assert all((ASSETS / path).is_file() for path in loaded)
    assert {Path(path).suffix for path in loaded} == {".js", ".css", ".svg"}
    assert all(path.startswith("./assets/") for path in loaded), "it is served below any path of a proxy"


def test_the_scripts_are_small() -> None:
    scripts = list((ASSETS / "assets").glob("*.js"))
    assert scripts
    assert sum(len(gzip.compress(path.read_bytes())) for path in scripts) <= MAX_SCRIPT_BYTES


def test_no_script_or_style_is_in_the_document(index: str) -> None:
    broken = '<style>a</style><script>b</script><p style="c" onclick="d"></p><script src="./e.js"></script>'
    assert Markup(broken).forbidden == ["<style>", "<script>", "style", "onclick"]
    assert Markup(index).forbidden == []


def test_no_script_makes_code_of_text() -> None:
    code = re.compile(r"\beval\(|\bnew Function\(|\bdocument\.write\(|javascript:")
    assert code.search('x=new Function("y")')
    for path in (ASSETS / "assets").glob("*.js"):
        assert code.search(path.read_text(encoding="utf-8")) is None, path.name


def test_nothing_is_loaded_from_another_site() -> None:
    assert list(find_addresses('a="https://cdn.example/x.js";b="http://www.w3.org/2000/svg"')) == [
        "https://cdn.example/x.js"
    ]
    for path in (ASSETS / "index.html", *(ASSETS / "assets").glob("*")):
        if path.suffix in (".html", ".js", ".css", ".svg"):
            assert list(find_addresses(path.read_text(encoding="utf-8"))) == [], path.name


def test_the_licence_of_each_package_in_the_page_is_there(build: dict[str, Any]) -> None:
    lock = json.loads((PAGE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    first, *texts = re.split(r"\n-{80}\n\n", (ASSETS / "assets" / "licenses.txt").read_text(encoding="utf-8"))
    assert "streamd" in first
    assert len(texts) == len(build["packages"]) > 2
    for each, text in zip(build["packages"], texts, strict=True):
        assert text.startswith(f"{each['name']} {each['version']} ({each['licence']})\n\n")
        assert "Copyright" in text
        assert len(text) > 500
        locked = lock[f"node_modules/{each['name']}"]
        assert (locked["version"], locked["integrity"]) == (each["version"], each["integrity"])
    manifest = json.loads((PAGE / "package.json").read_text(encoding="utf-8"))
    assert set(manifest["dependencies"]) <= {each["name"] for each in build["packages"]}


def test_the_lock_names_no_registry() -> None:
    """Each reader installs from the registry of its own settings."""
    lock = json.loads((PAGE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert [name for name, each in lock.items() if "resolved" in each] == []
    assert all("integrity" in each for name, each in lock.items() if name)
