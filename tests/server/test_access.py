"""Tests `streamd/server/daemon.py` as a process: where it may listen, its tokens, its certificates, and no secret."""

import http.client
import json
import os
import signal
import ssl
from pathlib import Path
from typing import Any

import pytest

from streamd.cli import main
from tests.support.daemon_process import DaemonProcess, make_small_settings, run_command
from tests.support.made_certificates import CertificateFolder
from tests.support.version_calls import StartDaemon


def test_without_tokens_it_refuses_to_listen_beyond_this_machine(tmp_path: Path) -> None:
    arguments = ("serve", "--host", "0.0.0.0", "--state-dir", str(tmp_path / "s"))
    ended = run_command(*arguments, cwd=tmp_path, **make_small_settings())
    assert ended.returncode == 2
    for named in ("0.0.0.0", "[server] host", "tokens_file", "insecure = true"):
        assert named in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "s").exists()


def create_token(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["token", "create", *arguments, "--file", str(path)]) == 0
    return capsys.readouterr().out.strip()


def get(daemon: DaemonProcess, context: ssl.SSLContext, path: str, token: str = "") -> tuple[int, Any, bytes | None]:
    """Call over TLS; return the status, the answer and the certificate of the daemon."""
    connection = http.client.HTTPSConnection("127.0.0.1", daemon.port, context=context)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        certificate = connection.sock.getpeercert(binary_form=True)
        response = connection.getresponse()
        return response.status, json.loads(response.read()), certificate
    finally:
        connection.close()


def test_tokens_and_certificates_are_reloaded_and_no_secret_is_shown(
    start: StartDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = tmp_path / "tokens.json"
    secrets = {name: create_token(tokens, capsys, name, "--scope", "read") for name in ("first", "second")}
    certificates = CertificateFolder(tmp_path / "certificates")
    files = certificates.issue("server")
    daemon = start(
        tmp_path / "state",
        *("--host", "0.0.0.0"),
        STREAMD_TOKENS_FILE=str(tokens),
        STREAMD_TLS_CERTIFICATE=str(files.certificate),
        STREAMD_TLS_KEY=str(files.key),
        STREAMD_ADMIN_TOKEN="admin-s3cret",
        STREAMD_LOG_LEVEL="debug",
    )
    context = ssl.create_default_context(cafile=certificates.folder / "ca.pem")
    # 1. Only probes need no token.
    assert get(daemon, context, "/healthz")[0] == 200
    status, answer, certificate = get(daemon, context, "/v1/status")
    assert (status, answer["code"]) == (401, "unauthorized")
    for token in secrets.values():
        assert get(daemon, context, "/v1/status", token)[0] == 200
    daemon.wait_for("ready")
    # 2. A reload applies a revoked token and a renewed certificate.
    assert main(["token", "revoke", "first", "--file", str(tokens)]) == 0
    certificates.issue("server")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("certificate_changed")
    assert get(daemon, context, "/v1/status", secrets["first"])[0] == 401
    status, answer, renewed = get(daemon, context, "/v1/status", secrets["second"])
    assert status == 200
    assert renewed != certificate
    # 3. A file that is gone opens nothing and closes nothing.
    os.unlink(tokens)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("tokens_rejected")
    assert get(daemon, context, "/v1/status")[0] == 401
    status, answer, _ = get(daemon, context, "/v1/status", secrets["second"])
    assert status == 200
    assert answer["access"]["rejected_files"] == ["tokens"]
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    events = [line["event"] for line in daemon.lines]
    assert {"tokens_changed", "certificate_changed", "tokens_rejected"} <= set(events)
    shown = json.dumps([answer, *daemon.lines])
    for secret in (*secrets.values(), "admin-s3cret"):
        assert secret not in shown
        assert secret.rpartition("_")[2] not in shown
