"""Tests `docs/page.md`: the page below a path of nginx, with TLS, by the configuration in the document."""

import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from streamd.core.access.scopes import Scope
from streamd.http.access.origins import OriginPolicy
from streamd.tools.loadtest.child import find_free_port
from tests.support.access_tokens import ALL, make_access_list, make_test_token
from tests.support.document_tables import read
from tests.support.http_harness import HttpDaemonSettings, run_http_daemon
from tests.support.small_page import SMALL_DOCUMENT
from tests.support.worker_fleet import wait_until

NAME = "metrics.example.org"
TOKEN = make_test_token("page", {Scope.READ: ALL, Scope.SUBSCRIBE: ALL})

MAIN = """
daemon off;
pid nginx.pid;
error_log error.log;
events {{}}
http {{
    access_log access.log;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
{server}
}}
"""
"""The rest of nginx's configuration, which the document leaves out."""


class LocalNames(AbstractResolver):
    """Finds every name on this machine."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        """Hold nothing."""


class References(HTMLParser):
    """The files that a document loads."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name == "src" and value is not None]


@dataclass(frozen=True)
class Proxy:
    """A running nginx."""

    folder: Path
    site: str
    session: aiohttp.ClientSession


def read_server_block() -> str:
    (block,) = re.findall(r"```text\n(map .*?)```", read("docs/page.md"), re.DOTALL)
    return str(block)


def edit(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, f"the document has no {old!r}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if shutil.which("nginx") is None:
        pytest.skip("needs nginx")
    authority = trustme.CA()
    certificate = authority.issue_cert(NAME)
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "metrics.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "metrics.key")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


@contextmanager
def run_nginx(folder: Path, port: int) -> Iterator[None]:
    """Run nginx by the configuration in a folder until the block ends."""
    command = ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: is_listening(process, port))
            yield
        finally:
            process.terminate()


def is_listening(process: "subprocess.Popen[bytes]", port: int) -> bool:
    assert process.poll() is None, process.stderr and process.stderr.read()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
async def proxy(folder: Path) -> AsyncIterator[Proxy]:
    """Run nginx in front of a daemon with a token and the settings that the document has."""
    port = find_free_port()
    site = f"https://{NAME}:{port}"
    settings = HttpDaemonSettings(access=make_access_list(TOKEN), origins=OriginPolicy(allowed_origins=[site]))
    async with run_http_daemon(folder / "state", settings) as daemon:
        server = edit(
            read_server_block(),
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("127.0.0.1:8002", f"127.0.0.1:{daemon.port}"),
            ("/etc/ssl/", f"{folder}/"),
        )
        (folder / "nginx.conf").write_text(MAIN.format(server=server))
        connector = aiohttp.TCPConnector(
            resolver=LocalNames(), ssl=ssl.create_default_context(cafile=str(folder / "ca.pem"))
        )
        with run_nginx(folder, port):
            async with aiohttp.ClientSession(connector=connector) as session:
                yield Proxy(folder, site, session)


async def test_the_page_loads_and_subscribes_below_the_path(proxy: Proxy) -> None:
    # 1. The document and its files, whatever the reader typed.
    async with proxy.session.get(f"{proxy.site}/streamd") as answer:
        assert str(answer.url) == f"{proxy.site}/streamd/"
        document = await answer.text()
        assert document == SMALL_DOCUMENT
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for path in References(document).found:
        async with proxy.session.get(urljoin(f"{proxy.site}/streamd/", path)) as answer:
            assert answer.status == 200
            assert answer.headers["Cache-Control"].endswith("immutable")
    # 2. A call with the token, and one from the page of another site.
    headers = {"Origin": proxy.site, **TOKEN.headers}
    for origin, status in ((proxy.site, 200), ("https://evil.example", 403)):
        async with proxy.session.get(
            f"{proxy.site}/streamd/v1/servers", headers={**headers, "Origin": origin}
        ) as answer:
            assert answer.status == status
    # 3. The WebSocket, by the protocol that carries the token.
    url = f"{proxy.site}/streamd/v1/forecasts"
    offered = ["streamd", f"streamd.token.{TOKEN.token}"]
    async with proxy.session.ws_connect(url, protocols=offered, origin=proxy.site) as opened:
        assert opened.protocol == "streamd"
        await opened.send_json({"type": "subscribe", "servers": ["*"]})
        answered: dict[str, Any] = json.loads(await opened.receive_str())
        assert answered["type"] == "subscribed"
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await proxy.session.ws_connect(url, origin=proxy.site)
    # 4. No line of the proxy's log has the token.
    wait_until(lambda: "/streamd/v1/forecasts" in (proxy.folder / "access.log").read_text())
    assert TOKEN.secret not in (proxy.folder / "access.log").read_text()
