"""Tests `streamd/web/files.py`: the files of the page in memory, and an installation that lacks them."""

import gzip
from pathlib import Path

import pytest

from streamd.web.files import load_page_files, make_page_file

SCRIPT, STYLE, NOTICE = "index-0a1B_-3d.js", "index-9f8e7d6c.css", "licenses.txt"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Return a folder as a build writes it."""
    (tmp_path / "index.html").write_text(
        f'<script type="module" crossorigin src="./assets/{SCRIPT}"></script>'
        f'<link rel="stylesheet" crossorigin href="./assets/{STYLE}">'
    )
    (tmp_path / "BUILD.json").write_text("{}")
    (tmp_path / "assets").mkdir()
    for name in (SCRIPT, STYLE, NOTICE):
        (tmp_path / "assets" / name).write_text(f"/* {name} */" * 100)
    return tmp_path


def test_each_file_is_there_with_its_type(built: Path) -> None:
    page = load_page_files(built)
    assert page.problem is None
    assert page.index.content_type == "text/html"
    assert {name: each.content_type for name, each in page.assets.items()} == {
        SCRIPT: "text/javascript",
        STYLE: "text/css",
        NOTICE: "text/plain",
    }
    assert all(each.content == (built / "assets" / name).read_bytes() for name, each in page.assets.items())


def test_only_names_with_the_hash_of_their_content_may_be_kept_for_ever(built: Path) -> None:
    page = load_page_files(built)
    assert {name for name, each in page.assets.items() if each.is_immutable} == {SCRIPT, STYLE}
    assert not page.index.is_immutable


def test_a_file_is_kept_compressed_if_that_saves_much(built: Path) -> None:
    page = load_page_files(built)
    gzipped = page.assets[SCRIPT].gzipped
    assert gzipped is not None
    assert gzip.decompress(gzipped) == page.assets[SCRIPT].content
    assert page.index.gzipped is None
    assert gzipped == make_page_file(SCRIPT, page.assets[SCRIPT].content).gzipped, "all workers send the same bytes"


def test_the_tag_is_that_of_the_content() -> None:
    first, second, again = (make_page_file("index.html", content).tag for content in (b"a", b"b", b"a"))
    assert first == again != second


@pytest.mark.parametrize("name", ["index.html", f"assets/{SCRIPT}", f"assets/{STYLE}"])
def test_an_installation_that_lacks_a_file_says_which(built: Path, name: str) -> None:
    (built / name).unlink()
    page = load_page_files(built)
    assert page.problem is not None
    assert Path(name).name in page.problem
    assert page.problem.encode() in page.index.content
    assert page.index.content_type == "text/plain"
    assert not page.assets
