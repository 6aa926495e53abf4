"""The prefix by which servers form groups: `db-07` and `db-08` are the group `db-`. Pure."""

import re

SEPARATORS = "-._:/"
_DIGITS = "0123456789"
_PORT = re.compile(r"(?<=[^:]):[0-9]{1,5}\Z")


def find_prefix(name: str) -> str:
    """Return the host's name up to and with its last separator that has something behind it.

    Without such a separator, the host's name without its trailing digits; of digits alone, all of it. The host is the
    name without a port, and without a domain: `web-01.dc1.example.com:9100` is in the group `web-`.
    """
    host = _find_host(name)
    end = max(host.rfind(separator, 0, len(host.rstrip(SEPARATORS))) for separator in SEPARATORS)
    if end >= 0:
        return host[: end + 1]
    return host.rstrip(_DIGITS) or host


def _find_host(name: str) -> str:
    """Return the part of a name that stands for the host: the first label, if the others are a domain."""
    if name.count(":") == 1:  # an address of version 6 has more
        name = _PORT.sub("", name)
    label, *others = name.rstrip(".").split(".")
    if not label or not others or "/" in name:
        return name
    # Addresses are no domains, and neither are paths such as eu.west.web-1, where the last label has the number.
    has_number, is_address = label[-1] in _DIGITS, not label.strip(_DIGITS)
    is_domain = not is_address and (has_number or others[-1].isalpha())
    return label if is_domain else name
