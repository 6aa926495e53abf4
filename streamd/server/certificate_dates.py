"""Reads until when a certificate is valid, from its PEM file; trusts nothing in it and checks nothing else.

Python's `ssl` shows the dates of a peer's certificate only, not of the own one; so its DER is walked here.
"""

import ssl
from datetime import UTC, datetime

from streamd.core.errors import ConfigError

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_VERSION_TAG = 0xA0
_DATE_FORMATS = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
"""By tag: UTCTime, whose years of two digits are 1950 to 2049, and GeneralizedTime."""


def read_certificate_expiry(pem: bytes, place: str) -> float:
    """Return the end of validity of the first certificate in a PEM file, in epoch seconds.

    Raises `ConfigError` naming `place` if there is no certificate, or one that cannot be read.
    """
    text = pem.decode("ascii", "replace")
    start, end = text.find(_BEGIN), text.find(_END)
    try:
        if start < 0 or end < start:
            raise ValueError("there is no certificate")
        return _find_expiry(ssl.PEM_cert_to_DER_cert(text[start : end + len(_END)]))
    except (ValueError, IndexError) as exc:
        raise ConfigError(f"{place}: has no certificate in PEM that can be read: {exc}") from exc


def _find_expiry(der: bytes) -> float:
    """Walk Certificate → TBSCertificate → version, serial number, signature, issuer, validity → notAfter."""
    _, certificate, _ = _read_element(der)
    _, fields, _ = _read_element(certificate)
    tag, _, rest = _read_element(fields)
    for _ in range(3 if tag == _VERSION_TAG else 2):  # the version may be left out
        _, _, rest = _read_element(rest)
    _, validity, _ = _read_element(rest)
    _, _, after_not_before = _read_element(validity)
    tag, date, _ = _read_element(after_not_before)
    if tag not in _DATE_FORMATS:
        raise ValueError(f"the end of validity has tag {tag:#x}, expected a time")
    parsed = datetime.strptime(date.decode("ascii"), _DATE_FORMATS[tag]).replace(tzinfo=UTC)
    if tag == 0x17 and parsed.year >= 2050:  # Python's own turn is at 69
        parsed = parsed.replace(year=parsed.year - 100)
    return parsed.timestamp()


def _read_element(data: bytes) -> tuple[int, bytes, bytes]:
    """Return the tag and the content of the first DER element, and what follows it."""
    tag, length, at = data[0], data[1], 2
    if length & 0x80:
        size = length & 0x7F
        length, at = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
    content = data[at : at + length]
    if len(content) < length:
        raise ValueError("it is cut off")
    return tag, content, data[at + length :]
