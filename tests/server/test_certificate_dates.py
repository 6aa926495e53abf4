"""Tests `streamd/server/certificate_dates.py` against certificates of another library, cut off at each byte too."""

import ssl
from datetime import UTC, datetime

import pytest
import trustme

from streamd.core.errors import ConfigError
from streamd.server.certificate_dates import read_certificate_expiry


@pytest.mark.parametrize("expires", [datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC), datetime(2055, 1, 2, tzinfo=UTC)])
def test_the_end_of_validity_is_that_of_the_first_certificate(expires: datetime) -> None:
    ca = trustme.CA()
    pem = b"".join(blob.bytes() for blob in ca.issue_cert("localhost", not_after=expires).cert_chain_pems)
    assert read_certificate_expiry(b"a comment\n" + pem + ca.cert_pem.bytes(), "a.pem") == expires.timestamp()


def test_what_is_no_certificate_is_an_error_that_names_its_place() -> None:
    der = ssl.PEM_cert_to_DER_cert(trustme.CA().cert_pem.bytes().decode())
    for length in range(len(der)):
        with pytest.raises(ConfigError, match=r"a\.pem"):
            read_certificate_expiry(ssl.DER_cert_to_PEM_cert(der[:length]).encode(), "a.pem")
    for pem in (b"", b"\xff", b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE----- -----BEGIN CERTIFICATE-----"):
        with pytest.raises(ConfigError, match=r"a\.pem"):
            read_certificate_expiry(pem, "a.pem")
