"""A page of a few files, for daemons whose tests do not look at it."""

from streamd.web.files import PageFiles, make_page_file

SMALL_SCRIPT = "index-0a1b2c3d.js"
"""The name of its only script."""

SMALL_DOCUMENT = (
    f'<!doctype html>\n<title>small</title>\n<script type="module" src="./assets/{SMALL_SCRIPT}"></script>\n'
)


def make_small_page() -> PageFiles:
    """Return a document and its script, which is long enough to be compressed."""
    script = b"document.title = 'ready';\n" * 100
    return PageFiles(
        index=make_page_file("index.html", SMALL_DOCUMENT.encode()),
        assets={SMALL_SCRIPT: make_page_file(SMALL_SCRIPT, script)},
    )
