"""The check of URLs that the settings give for what the daemon sends. Pure; opens no connection."""

import re
from urllib.parse import urlsplit

_FORM = re.compile(r"https?://[^\s/?#]+[^\s?#]*(\?[^\s#]*)?")


def is_http_url(text: str) -> bool:
    """Whether `text` is a URL that a request can be sent to: `http` or `https`, with a host and a port that may be."""
    if not _FORM.fullmatch(text) or not text.isprintable():
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0  # reading the port checks it
    except ValueError:  # such as a bracket that is not closed
        return False
