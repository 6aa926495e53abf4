"""Tests `streamd/server/access/exposure.py`: where the daemon may listen without tokens."""

import pytest
from structlog.testing import capture_logs

from streamd.core.errors import ConfigError
from streamd.server.access.exposure import is_on_loopback, require_protection
from streamd.server.config import AccessSection
from streamd.server.listening import ListenAddress

LOOPBACK = [
    ListenAddress("127.0.0.1", 8002),
    ListenAddress("127.255.0.9", 8002),
    ListenAddress("::1", 8002),
    ListenAddress("::ffff:127.0.0.1", 8002),
    ListenAddress("/run/streamd.sock", 0, is_unix=True),
]
EXPOSED = [
    ListenAddress("0.0.0.0", 8002),
    ListenAddress("::", 8002),
    ListenAddress("192.0.2.1", 8002),
    ListenAddress("::ffff:192.0.2.1", 8002),
    ListenAddress("fe80::1%eth0", 8002),
]


@pytest.mark.parametrize("address", LOOPBACK, ids=str)
def test_loopback_needs_no_tokens(address: ListenAddress) -> None:
    assert is_on_loopback(address)
    with capture_logs() as logs:
        require_protection([address], AccessSection(), has_tokens=False)
    assert logs == []


@pytest.mark.parametrize("address", EXPOSED, ids=str)
def test_other_addresses_need_tokens_a_client_ca_or_insecure(address: ListenAddress) -> None:
    addresses = [*LOOPBACK, address]
    for settings in (AccessSection(), AccessSection(tls_certificate="c", tls_key="k")):
        with pytest.raises(ConfigError) as caught:
            require_protection(addresses, settings, has_tokens=False)
        for named in (str(address), "[server] host", "tokens_file", "tls_client_ca", "insecure = true"):
            assert named in str(caught.value)
        assert str(LOOPBACK[0]) + "," not in str(caught.value)
    with capture_logs() as logs:
        require_protection(addresses, AccessSection(), has_tokens=True)
        require_protection(addresses, AccessSection(insecure=True), has_tokens=True)
        require_protection(
            addresses, AccessSection(tls_certificate="c", tls_key="k", tls_client_ca="a"), has_tokens=False
        )
    assert logs == []


def test_insecure_is_a_warning_that_names_the_addresses() -> None:
    with capture_logs() as logs:
        require_protection([*LOOPBACK, EXPOSED[0]], AccessSection(insecure=True), has_tokens=False)
    assert [(line["event"], line["log_level"], line["addresses"]) for line in logs] == [
        ("serves_everybody", "warning", ["0.0.0.0:8002"])
    ]
