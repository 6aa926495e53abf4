"""The built files of the page: read and compressed once, each with what its answer needs. Serves nothing."""

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

FILE_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".woff2": "font/woff2",
}
"""The type of each kind of file. Not that of the module `mimetypes`, which depends on files of the machine."""

_HASHED_NAME = re.compile(r".+-[A-Za-z0-9_-]{8}\.[a-z0-9]+")
"""A name with the hash of its content, as Vite gives it: another content has another name."""

_REFERENCE = re.compile(r"""\b(?:src|href)="\./assets/([^"/]+)\"""")

_MIN_SAVED_BYTES = 256
"""A file is kept compressed if this saves at least so much."""


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """One file: its bytes, and compressed ones if they are fewer."""

    content: bytes
    gzipped: bytes | None
    content_type: str
    tag: str
    """The beginning of the SHA-256 of the content."""
    is_immutable: bool
    """Whether its name changes with its content."""


@dataclass(frozen=True, kw_only=True)
class PageFiles:
    """The page: its document, and by name the files that it loads."""

    index: PageFile
    assets: Mapping[str, PageFile]
    problem: str | None = None
    """Why there is no page in this installation; the document says so, too."""


def load_page_files(folder: Traversable | None = None) -> PageFiles:
    """Read and compress the files of the page in this folder, by default those of the package; takes about 50 ms.

    If they are not whole, the result has a `problem`, and a document that shows it.
    """
    root = files("streamd.web").joinpath("assets") if folder is None else folder
    try:
        index = root.joinpath("index.html").read_bytes()
        found = {each.name: each.read_bytes() for each in root.joinpath("assets").iterdir() if each.is_file()}
    except OSError as exc:
        return _make_damaged_page(f"{exc.filename or root}: cannot be read: {exc.strerror or exc}")
    missing = sorted(set(_REFERENCE.findall(index.decode("utf-8", "replace"))) - set(found))
    if missing:
        return _make_damaged_page(f"{root}: has no {' and no '.join(missing)}")
    assets = {name: make_page_file(name, content) for name, content in found.items()}
    return PageFiles(index=make_page_file("index.html", index), assets=assets)


def make_page_file(name: str, content: bytes) -> PageFile:
    """Return a file of this name and content."""
    suffix = name[name.rfind(".") :]
    gzipped = gzip.compress(content, mtime=0)
    return PageFile(
        content=content,
        gzipped=gzipped if len(gzipped) + _MIN_SAVED_BYTES <= len(content) else None,
        content_type=FILE_TYPES.get(suffix, "application/octet-stream"),
        tag=hashlib.sha256(content).hexdigest()[:32],
        is_immutable=_HASHED_NAME.fullmatch(name) is not None,
    )


def _make_damaged_page(problem: str) -> PageFiles:
    text = (
        f"The files of this page are missing from the installation of streamd ({problem}).\n"
        "Install it again. The calls below /v1 work without the page; /openapi.json lists them.\n"
    )
    return PageFiles(index=make_page_file("index.txt", text.encode()), assets={}, problem=problem)
