"""Tests `streamd/server/tls.py` by handshakes over real sockets: versions, client certificates, renewed files."""

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from streamd.core.errors import ConfigError
from streamd.server.tls import TlsFiles, TlsSwitch, load_tls
from tests.support.made_certificates import CertificateFolder

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> CertificateFolder:
    """A CA with a certificate `server`, and `client` for the name agent-1."""
    certificates = CertificateFolder(tmp_path_factory.mktemp("certificates"))
    certificates.issue("server")
    certificates.issue("client", "agent-1.example")
    return certificates


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> CertificateFolder:
    """Another CA with the same."""
    certificates = CertificateFolder(tmp_path_factory.mktemp("other"))
    certificates.issue("server")
    certificates.issue("client", "agent-2.example")
    return certificates


def files_of(certificates: CertificateFolder, name: str = "server", client_ca: bool = False) -> TlsFiles:
    folder = certificates.folder
    return TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem" if client_ca else None)


@dataclass
class EchoServer:
    """A server that answers each line with the names in the client certificate."""

    port: int

    def call(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> "Answer":
        """Connect, send a line and return the answer; raises `OSError` if the handshake fails."""
        with (
            socket.create_connection(("127.0.0.1", self.port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as connected,
        ):
            connected.sendall(b"x\n")
            # With TLS 1.3 a refused client certificate shows when the client reads.
            if not (data := connected.recv(1_000)):
                raise ConnectionResetError("closed without an answer")
            names, peer = data.decode().strip(), connected.getpeercert(binary_form=True)
            answer = Answer(names, peer, connected.session, connected.session_reused, connected.version())
            connected.unwrap()  # a session that is not closed in order cannot be resumed
            return answer


@dataclass
class Answer:
    names: str
    certificate: bytes | None
    session: ssl.SSLSession | None
    is_resumed: bool | None
    version: str | None


@asynccontextmanager
async def serving(switch: TlsSwitch) -> AsyncIterator[EchoServer]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            names = (writer.get_extra_info("peercert") or {}).get("subjectAltName", ())
            writer.write(b" ".join([*(name.encode() for _, name in names), line]))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=switch.context)
    # A handshake that fails is what these tests want; asyncio would report it as the loop's error.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with server:
        yield EchoServer(server.sockets[0].getsockname()[1])


def make_client(
    trusted: CertificateFolder,
    own: TlsFiles | None = None,
    version: ssl.TLSVersion | None = None,
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trusted.folder / "ca.pem")
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


# ---------------------------------------------------------------- handshakes
@pytest.mark.parametrize("version", VERSIONS)
async def test_it_speaks_tls_from_1_2_on(issued: CertificateFolder, version: ssl.TLSVersion) -> None:
    async with serving(TlsSwitch(load_tls(files_of(issued)))) as server:
        answer = await asyncio.to_thread(server.call, make_client(issued, version=version))
    assert answer.version == version.name.replace("_", ".")


async def test_it_refuses_older_versions(issued: CertificateFolder) -> None:
    client, loaded = make_client(issued), load_tls(files_of(issued))
    assert loaded.context.minimum_version == ssl.TLSVersion.TLSv1_2
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        client.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")  # or the client would not even try
    async with serving(TlsSwitch(loaded)) as server:
        with pytest.raises(OSError):  # noqa: PT011 - which error OpenSSL reports depends on its version
            await asyncio.to_thread(server.call, client)


@pytest.mark.parametrize("version", VERSIONS)
async def test_with_a_client_ca_each_connection_needs_its_certificate(
    issued: CertificateFolder, other: CertificateFolder, version: ssl.TLSVersion
) -> None:
    async with serving(TlsSwitch(load_tls(files_of(issued, client_ca=True)))) as server:
        known = make_client(issued, files_of(issued, "client"), version)
        assert (await asyncio.to_thread(server.call, known)).names == "agent-1.example x"
        for refused in (None, files_of(other, "client")):
            with pytest.raises(OSError):  # noqa: PT011 - which error it is depends on the version of TLS
                await asyncio.to_thread(server.call, make_client(issued, refused, version))


# ---------------------------------------------------------------- renewal
async def test_new_connections_get_the_renewed_certificate_and_open_ones_stay(
    tmp_path: Path, issued: CertificateFolder
) -> None:
    certificates = CertificateFolder(tmp_path, issued.ca)
    files = certificates.issue("server")
    switch, client = TlsSwitch(load_tls(files)), make_client(issued)
    async with serving(switch) as server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=client, server_hostname="localhost"
        )
        before = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert (await asyncio.to_thread(server.call, client)).certificate == before
        certificates.issue("server")
        switch.use(load_tls(files))
        assert (await asyncio.to_thread(server.call, client)).certificate != before
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"
        writer.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_ca_that_is_replaced_admits_nobody_any_more_not_even_by_a_session(
    issued: CertificateFolder, other: CertificateFolder, version: ssl.TLSVersion
) -> None:
    files = files_of(issued, client_ca=True)
    switch = TlsSwitch(load_tls(files))
    old, new = (make_client(issued, files_of(each, "client"), version) for each in (issued, other))
    async with serving(switch) as server:
        session = (await asyncio.to_thread(server.call, old)).session
        resumes = version == ssl.TLSVersion.TLSv1_2  # by its identifier; there are no tickets
        assert (await asyncio.to_thread(server.call, old, session)).is_resumed == resumes
        switch.use(load_tls(replace(files, client_ca=other.folder / "ca.pem")))
        for resumed in (session, None):
            with pytest.raises(OSError):  # noqa: PT011 - which error it is depends on the version of TLS
                await asyncio.to_thread(server.call, old, resumed)
        assert (await asyncio.to_thread(server.call, new)).names == "agent-2.example x"


def test_a_context_equals_one_of_the_same_bytes(tmp_path: Path, issued: CertificateFolder) -> None:
    loaded = load_tls(files_of(issued))
    copies = [shutil.copy2(each, tmp_path) for each in files_of(issued)]
    assert load_tls(TlsFiles(*map(Path, copies))) == loaded
    assert load_tls(files_of(issued, client_ca=True)) != loaded
    assert load_tls(files_of(issued, "client")) != loaded


# ---------------------------------------------------------------- files that cannot be used
@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        ("server.pem", "client.key", "cannot be used with the key .*client.key: key values mismatch"),
        ("server.key", "server.key", "cannot be used with the key"),
        ("ca.pem", "server.key", "cannot be used with the key"),
        ("missing.pem", "server.key", "missing.pem: the certificate cannot be read: No such file"),
        ("server.pem", "missing.key", "missing.key: the key of the certificate cannot be read: No such file"),
    ],
)
def test_a_bad_pair_is_named(issued: CertificateFolder, certificate: str, key: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        load_tls(TlsFiles(issued.folder / certificate, issued.folder / key))
    assert "PRIVATE" not in str(caught.value)


def test_a_client_ca_without_certificates_is_named(issued: CertificateFolder) -> None:
    with pytest.raises(ConfigError, match=r"server.key: has no certificates of CAs"):
        load_tls(replace(files_of(issued), client_ca=issued.folder / "server.key"))


def test_an_encrypted_key_is_refused_and_not_asked_for(tmp_path: Path, issued: CertificateFolder) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key((issued.folder / "server.key").read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    path = CertificateFolder(tmp_path, issued.ca).write("encrypted.key", encrypted)
    with pytest.raises(ConfigError, match="the key is encrypted, expected one without a password"):
        load_tls(TlsFiles(issued.folder / "server.pem", path))
