"""Tests `streamd/tools/ingest/push.py`: URLs, and daemons that are away or answer something else."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streamd.core.errors import ConfigError
from streamd.tools.ingest.errors import PushError
from streamd.tools.ingest.push import DaemonPusher


@contextmanager
def answer_once(answer: bytes, received: list[bytes] | None = None) -> Iterator[str]:
    """Serve one raw answer, and add the request to `received`; yields the URL."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            request = connection.recv(65_536)
            if received is not None:
                received.append(request)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def make_answer(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8002", "ftp://localhost", "http://", "http://localhost:0", "http://localhost:99999", "http://[::1"],
)
def test_another_url_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="--url"):
        DaemonPusher(url, "/pcp")


@pytest.mark.parametrize(
    "url", ["http://user:secret@localhost", "http://localhost?token=secret", "http://localhost#secret"]
)
def test_a_url_with_a_secret_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DaemonPusher(url, "/pcp")
    assert "secret" not in str(caught.value)


def test_a_daemon_that_is_away_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(PushError, match=rf"no answer from {url}/pcp: .*Connection refused; is the daemon running\?"):
        DaemonPusher(url, "/pcp").push(b"{}")


def test_the_token_is_sent_and_not_shown() -> None:
    received: list[bytes] = []
    refusal = make_answer("401 Unauthorized", b'{"message":"the token is not known to this daemon"}')
    with (
        answer_once(refusal, received) as url,
        pytest.raises(PushError, match="answered 401: the token is not known") as caught,
    ):
        DaemonPusher(url, "/pcp", "secret").push(b"{}")
    assert b"Authorization: Bearer secret\r\n" in received[0]
    assert "secret" not in str(caught.value)


def test_a_connection_that_is_cut_is_no_answer() -> None:
    with answer_once(b"") as url, pytest.raises(PushError, match="no answer from"):
        DaemonPusher(url, "/pcp").push(b"{}")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"rejected":"no"}', b"\xff"])
def test_a_server_that_is_no_daemon_is_named(body: bytes) -> None:
    with answer_once(make_answer("200 OK", body)) as url, pytest.raises(PushError, match="not as streamd does"):
        DaemonPusher(url, "/pcp").push(b"{}")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        ("400 Bad Request", b'{"type":"error","message":"expected a document"}', "answered 400: expected a document"),
        ("404 Not Found", b"<html>", "answered 404: Not Found"),
        ("599 Odd", b"", "answered 599: no reason given"),
    ],
)
def test_a_refusal_has_its_reason(status: str, body: bytes, message: str) -> None:
    with answer_once(make_answer(status, body)) as url, pytest.raises(PushError, match=message):
        DaemonPusher(url, "/pcp").push(b"{}")
