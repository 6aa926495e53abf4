"""Checks of the network and of access: address, tokens and certificates. Accepts nothing and connects to nothing."""

import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from streamd.core.errors import ConfigError
from streamd.server.access.exposure import is_on_loopback
from streamd.server.access.tokens_file import find_tokens_file
from streamd.server.config import Config, ServerSection, read_admin_token
from streamd.server.doctor.findings import Finding, make_error, make_ok, make_warning
from streamd.server.doctor.folders import find_lock_holder
from streamd.server.listening import ListenAddress
from streamd.server.tls import find_tls_files, load_tls

EXPIRY_WARNING_DAYS = 14.0

_DAY_SECONDS = 86_400.0


def check_port(config: Config, locks: Path = Path("/proc/locks")) -> Iterator[Finding]:
    """Check whether the address can be bound; a port in use is fine if the daemon of this state folder runs."""
    server = config.server
    try:
        addresses = resolve_addresses(server)
    except OSError as exc:
        yield make_error("port", f"{server.host}: {exc.strerror or exc}", "set `host` to an address of this machine")
        return
    for family, address in addresses:
        where = str(ListenAddress(address[0], address[1]))
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)  # fails beside a socket that listens; nothing listens on this one
        except OSError as exc:
            yield _explain_bind_failure(where, exc, config, locks)
        else:
            yield make_ok("port", f"{where} is free")


def resolve_addresses(server: ServerSection) -> list[tuple[int, tuple[str, int]]]:
    """Return the family and the address of each place that the settings listen on. Raises `OSError`."""
    found = socket.getaddrinfo(server.host or None, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, (str(address[0]), int(address[1]))) for family, *_, address in found))


def _explain_bind_failure(where: str, exc: OSError, config: Config, locks: Path) -> Finding:
    holder = find_lock_holder(Path(config.state.state_dir) / "windows.streamd", locks)
    if holder is not None:
        return make_ok("port", f"{where} is in use, and the daemon of this state folder runs (process {holder})")
    return make_error(
        "port",
        f"{where}: {exc.strerror or exc}",
        "find the process with `ss -ltnp`, or set another `port`; if it is streamd.socket of systemd, all is well",
    )


def check_access(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the tokens, and whether other machines are served without one."""
    names: list[str] | None = None
    try:
        file = find_tokens_file(config.access.tokens_file, environ)
        has_admin = bool(read_admin_token(config))
        if file is not None:
            records = file.read()
            names = [record.name for record in records]
            yield make_ok("tokens", f"{file.path}: {len(names)} tokens")
    except ConfigError as exc:
        yield make_error("tokens", str(exc), "`streamd token list` reads the same file; `chmod 600` protects it")
        return
    try:
        exposed = [
            each
            for each in (ListenAddress(*address) for _, address in resolve_addresses(config.server))
            if not is_on_loopback(each)
        ]
    except OSError:
        return  # `check_port` reports it
    yield from _check_exposure(exposed, config, has_tokens=names is not None or has_admin)


def _check_exposure(exposed: list[ListenAddress], config: Config, *, has_tokens: bool) -> Iterator[Finding]:
    where = ", ".join(map(str, exposed))
    if not exposed:
        yield make_ok("access", "only this machine reaches the daemon")
    elif has_tokens or config.access.tls_client_ca:
        if not config.access.tls_certificate:
            yield make_warning("access", f"tokens travel to {where} unencrypted", "set tls_certificate and tls_key")
        else:
            yield make_ok("access", f"{where} serves callers with a token or a certificate")
    elif config.access.insecure:
        yield make_warning("access", f"{where} serves every caller (insecure = true)", "create tokens: `streamd token`")
    else:
        yield make_error(
            "access",
            f"{where} would serve every caller, and the daemon refuses to start",
            "create tokens: `streamd token create`; or listen on 127.0.0.1; or set insecure = true",
        )


def check_certificate(config: Config, now: float | None = None) -> Iterator[Finding]:
    """Check that the certificate and its key belong together, and for how long they are valid."""
    files = find_tls_files(config.access)
    if files is None:
        return
    try:
        loaded = load_tls(files)
    except ConfigError as exc:
        yield make_error("tls", str(exc), "correct tls_certificate, tls_key and tls_client_ca")
        return
    days = (loaded.expires - (time.time() if now is None else now)) / _DAY_SECONDS
    renew = "renew it; the daemon takes the new files without a restart"
    if days < 0:
        yield make_error("tls", f"{files.certificate}: expired {-days:.0f} days ago", renew)
    elif days < EXPIRY_WARNING_DAYS:
        yield make_warning("tls", f"{files.certificate}: expires in {days:.0f} days", renew)
    else:
        yield make_ok("tls", f"{files.certificate}: valid for {days:.0f} days")
