"""Tests `streamd/tools/connection_failures.py`: each failure names a way out."""

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from streamd.tools.connection_failures import describe_failure
from tests.support.made_certificates import CertificateFolder


@contextmanager
def serving_once(context: ssl.SSLContext | None = None, answer: bytes = b"") -> Iterator[int]:
    """Serve one connection: shake hands if there is a TLS context, send the answer, close; yields the port."""

    def serve() -> None:
        connection, _ = listener.accept()
        with suppress(OSError):
            served = context.wrap_socket(connection, server_side=True) if context else connection
            with served:
                served.recv(4096)
                served.sendall(answer)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def call(port: int, *, by_tls: bool) -> str:
    """Call a server on loopback and return the description of the failure."""
    make = http.client.HTTPSConnection if by_tls else http.client.HTTPConnection
    connection = make("127.0.0.1", port, timeout=10.0)
    try:
        connection.request("GET", "/metrics")
        connection.getresponse()
    except (OSError, http.client.HTTPException) as exc:
        return describe_failure(exc)
    finally:
        connection.close()
    pytest.fail("the call did not fail")


def test_a_certificate_of_an_unknown_ca_names_the_variable(tmp_path: Path) -> None:
    files = CertificateFolder(tmp_path).issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with serving_once(context) as port:
        assert "SSL_CERT_FILE" in call(port, by_tls=True)


def test_tls_where_none_is_spoken_names_http() -> None:
    with serving_once(answer=b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert call(port, by_tls=True) == "it does not speak TLS; call it by http://"


def test_a_connection_that_is_closed_names_https() -> None:
    with serving_once() as port:
        assert "https://" in call(port, by_tls=False)


def test_a_refused_connection_questions_the_daemon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert call(port, by_tls=False).endswith("is the daemon running?")


def test_other_failures_have_a_text() -> None:
    assert describe_failure(socket.gaierror(8, "?")) == "the host name is not known"
    assert describe_failure(TimeoutError()) == "it took too long"
    assert describe_failure(http.client.BadStatusLine("x")) == "x"
    assert describe_failure(OSError()) == "OSError"
