"""Tests `streamd/tools/ingest/pcp2json.py`: documents cut into bodies, and what the command says and returns."""

import io
import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamd import cli
from streamd.core.errors import MalformedError
from streamd.protocols.pcp import decode_pcp
from streamd.tools.ingest.pcp2json import cut_document
from tests.support.agent_fixtures import read_agent_body, run_decoder

ANSWER = {"taken": 10, "ignored": 2, "skipped": 1, "rejected": 0, "errors": []}


class FakeRoute(ThreadingHTTPServer):
    """A daemon that keeps the posted bodies, and gives the answers that a test sets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posts: list[tuple[str, bytes]] = []
        self.status = 200
        self.answer = json.dumps(ANSWER).encode()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        server.posts.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(server.answer)))
        self.end_headers()
        self.wfile.write(server.answer)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def route() -> Iterator[FakeRoute]:
    with FakeRoute() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def give_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def ingest(*arguments: str) -> int:
    return cli.main(["ingest", "pcp2json", *arguments])


# ---------------------------------------------------------------- pushing
def test_a_document_of_standard_input_is_pushed(
    route: FakeRoute, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_input(monkeypatch, read_agent_body("pcp2json/default-stdout"))
    assert ingest("-", "--url", route.url) == 0
    ((path, body),) = route.posts
    assert path == "/pcp"
    assert len(run_decoder(decode_pcp, body).points) == 57
    assert capsys.readouterr().out == "documents 1, points taken 10, ignored 2, skipped 1, rejected 0\n"


def test_a_file_with_several_documents_is_pushed(
    route: FakeRoute, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"
    path.write_bytes(read_agent_body("pcp2json/default-stdout") + read_agent_body("pcp2json/no-header-exact"))
    assert ingest(str(path), "--url", f"{route.url}/") == 0
    assert [len(run_decoder(decode_pcp, body).points) for _, body in route.posts] == [57, 57]
    assert capsys.readouterr().out.startswith("documents 2, points taken 20, ignored 4")


def test_a_base_path_of_a_proxy_is_kept(route: FakeRoute, monkeypatch: pytest.MonkeyPatch) -> None:
    give_input(monkeypatch, read_agent_body("pcp2json/default-stdout"))
    assert ingest("-", "--url", f"{route.url}/streamd/") == 0
    assert [path for path, _ in route.posts] == ["/streamd/pcp"]


def test_rejected_points_are_named(
    route: FakeRoute, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    route.answer = json.dumps({**ANSWER, "rejected": 1, "errors": [{"code": "too_old", "message": "a b c"}]}).encode()
    give_input(monkeypatch, read_agent_body("pcp2json/default-stdout"))
    assert ingest("-", "--url", route.url) == 0
    assert capsys.readouterr().err == "rejected: a b c\n"


def test_the_first_interrupt_waits_for_the_document_that_it_ends(
    route: FakeRoute, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            if self.tell() == 0:
                signal.raise_signal(signal.SIGINT)
            return super().readline(size)

    former = signal.getsignal(signal.SIGINT)
    stream = Interrupted(read_agent_body("pcp2json/default-stdout"))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
    assert ingest("-", "--url", route.url) == 0
    assert len(route.posts) == 1
    assert signal.getsignal(signal.SIGINT) is former


def test_a_second_interrupt_ends_it(route: FakeRoute, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            signal.raise_signal(signal.SIGINT)
            return super().readline(size)

    stream = Interrupted(read_agent_body("pcp2json/default-stdout"))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
    assert ingest("-", "--url", route.url) == 130
    assert route.posts == []


# ---------------------------------------------------------------- failures
def test_an_input_that_is_cut_off_fails_after_its_whole_documents(
    route: FakeRoute, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = read_agent_body("pcp2json/default-stdout")
    give_input(monkeypatch, document + document[:-20])
    assert ingest("-", "--url", route.url) == 1
    assert len(route.posts) == 1
    shown = capsys.readouterr()
    assert shown.err == "streamd ingest pcp2json: the input ends in the middle of a document\n"
    assert shown.out.startswith("documents 1, points taken 10")


@pytest.mark.parametrize("data", [b"", b'{ "//": "Waiting for 3 metrics..." }\n'])
def test_an_input_without_a_document_fails(
    route: FakeRoute, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    give_input(monkeypatch, data)
    assert ingest("-", "--url", route.url) == 1
    assert "the input has no document" in capsys.readouterr().err


def test_another_input_fails(
    route: FakeRoute, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_input(monkeypatch, b"pmval: metric unknown\n")
    assert ingest("-", "--url", route.url) == 1
    assert "the body is not JSON" in capsys.readouterr().err
    assert route.posts == []


def test_a_daemon_that_refuses_is_named(
    route: FakeRoute, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    route.status, route.answer = 503, b'{"type":"error","code":"too_busy","message":"too many points"}'
    give_input(monkeypatch, read_agent_body("pcp2json/default-stdout"))
    assert ingest("-", "--url", route.url) == 1
    assert capsys.readouterr().err == f"streamd ingest pcp2json: {route.url}/pcp answered 503: too many points\n"


def test_points_that_are_all_rejected_fail(route: FakeRoute, monkeypatch: pytest.MonkeyPatch) -> None:
    route.answer = json.dumps({**ANSWER, "taken": 0, "rejected": 12}).encode()
    give_input(monkeypatch, read_agent_body("pcp2json/default-stdout"))
    assert ingest("-", "--url", route.url) == 1


def test_a_missing_file_is_a_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest(str(tmp_path / "none.json")) == 2
    assert capsys.readouterr().err.endswith("none.json: No such file or directory\n")


# ---------------------------------------------------------------- cutting
def test_a_long_document_is_cut_between_samples() -> None:
    document = read_agent_body("pcp2json/default-stdout")
    parts = list(cut_document(document, 1500))
    assert len(parts) == 3
    whole = run_decoder(decode_pcp, document).points
    assert [point for part in parts for point in run_decoder(decode_pcp, part).points] == whole
    assert len(list(cut_document(document, 3000))) == 2
    assert len(list(cut_document(document, 10**6))) == 1


def test_each_part_has_the_head_of_its_host() -> None:
    hosts = [{"@host": name, "@timezone": "UTC+9", "@metrics": [{"a": 1}, {"b": 2}]} for name in ("x", "ÿ")]
    document = json.dumps({"@pcp": {"@hosts": [*hosts, {"@host": "z", "@metrics": []}]}}).encode()
    parts = [json.loads(part)["@pcp"]["@hosts"] for part in cut_document(document, 1)]
    assert parts == [[{**host, "@metrics": [sample]}] for host in hosts for sample in host["@metrics"]]


def test_what_is_no_document_is_not_cut() -> None:
    with pytest.raises(MalformedError):
        list(cut_document(b'{"@pcp":{}}', 1000))
