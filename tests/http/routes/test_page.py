"""Tests `streamd/http/routes/page.py`: the page and its files, for browsers and for proxies between."""

from pathlib import Path

import pytest
from aiohttp import hdrs

from streamd.http.routes.page import accepts_gzip
from streamd.web.files import load_page_files, make_page_file
from tests.http.conftest import Start
from tests.support.access_tokens import grant_all, make_access_list, make_test_token
from tests.support.http_harness import HttpDaemon, HttpDaemonSettings
from tests.support.small_page import SMALL_DOCUMENT, SMALL_SCRIPT, make_small_page

SCRIPT = f"/assets/{SMALL_SCRIPT}"
PLAIN = {"Accept-Encoding": "identity"}


async def test_the_page_and_its_files_are_served_without_a_token(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(access=make_access_list(make_test_token("any", grant_all()))))
    page = await daemon.call("GET", "/", headers=PLAIN)
    assert (page.status, page.data.decode()) == (200, SMALL_DOCUMENT)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Cache-Control"] == "no-cache"
    script = await daemon.call("GET", SCRIPT, headers=PLAIN)
    assert (script.status, script.data) == (200, make_small_page().assets[SMALL_SCRIPT].content)
    assert script.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert script.headers["Cache-Control"] == "public, max-age=31536000, immutable"


async def test_nothing_may_be_loaded_that_is_not_of_the_daemon(daemon: HttpDaemon) -> None:
    for path in ("/", SCRIPT):
        headers = (await daemon.get(path)).headers
        policy = dict(each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in str(policy)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "Permissions-Policy" in headers
        assert "Access-Control-Allow-Origin" not in headers


async def test_a_file_is_compressed_for_those_who_take_it(daemon: HttpDaemon) -> None:
    async with daemon.session.get(daemon.url + SCRIPT, headers={"Accept-Encoding": "br, gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert int(answer.headers["Content-Length"]) < 200
        assert await answer.read() == make_small_page().assets[SMALL_SCRIPT].content
    plain = await daemon.call("GET", SCRIPT, headers=PLAIN)
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["Vary"] == "Accept-Encoding"
    assert plain.headers[hdrs.ETAG] != answer.headers[hdrs.ETAG]


async def test_a_file_that_the_caller_has_is_not_sent_again(daemon: HttpDaemon) -> None:
    for path, encoding in (("/", "identity"), (SCRIPT, "identity"), (SCRIPT, "gzip")):
        headers = {"Accept-Encoding": encoding}
        first = await daemon.call("GET", path, headers=headers)
        tag = first.headers[hdrs.ETAG]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):  # a proxy that compresses marks the tag as weak
            again = await daemon.call("GET", path, headers={**headers, "If-None-Match": known})
            assert (again.status, again.data) == (304, b"")
            for name in (hdrs.ETAG, "Cache-Control", "Content-Security-Policy"):
                assert again.headers[name] == first.headers[name]
        assert (await daemon.call("GET", path, headers={**headers, "If-None-Match": '"other"'})).status == 200


async def test_head_answers_as_get_without_the_body(daemon: HttpDaemon) -> None:
    for path in ("/", SCRIPT):
        head, get = await daemon.call("HEAD", path, headers=PLAIN), await daemon.call("GET", path, headers=PLAIN)
        assert (head.status, head.data) == (200, b"")
        for name in ("Content-Length", "Content-Type", hdrs.ETAG):
            assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("name", ["index-00000000.js", "..%2Findex.html", "%00", "index.html", ""])
async def test_a_file_that_is_not_of_the_page_is_not_found(daemon: HttpDaemon, name: str) -> None:
    reply = await daemon.call("GET", f"/assets/{name}")
    assert (reply.status, reply.code) == (404, "not_found")


async def test_a_page_that_is_turned_off_is_not_found(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(page=None))
    for path in ("/", SCRIPT):
        reply = await daemon.get(path)
        assert (reply.status, reply.code) == (404, "not_found")
    assert (await daemon.get("/healthz")).status == 200


async def test_a_damaged_installation_says_so_in_place_of_the_page(start: Start) -> None:
    daemon = await start(HttpDaemonSettings(page=load_page_files(Path("/nowhere"))))
    reply = await daemon.get("/")
    assert reply.status == 503
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert b"missing from the installation" in reply.data
    assert b"/nowhere" in reply.data
    assert (await daemon.get("/v1/servers")).status == 200


@pytest.mark.parametrize(
    ("values", "accepts"),
    [
        ([], False),
        (["gzip"], True),
        (["br;q=1.0, GZIP ; q=0.5"], True),
        (["br", "gzip"], True),
        (["*"], True),
        (["gzip;q=0, *"], False),
        (["gzip;q=0.000"], False),
        (["gzip;q=0.001"], True),
        (["identity, *;q=0"], False),
        (["x-gzip, deflate"], False),
        ([""], False),
    ],
)
def test_the_accepted_codings_are_read_with_their_weights(values: list[str], accepts: bool) -> None:
    assert accepts_gzip(values) is accepts


async def test_small_files_are_never_compressed(daemon: HttpDaemon) -> None:
    assert make_page_file("a.txt", b"short").gzipped is None
    reply = await daemon.call("GET", "/", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in reply.headers
