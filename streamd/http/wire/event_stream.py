"""The text of server-sent events. Pure; `streamd/http/sockets.py` writes it."""

KEEP_ALIVE_COMMENT = b": keep-alive\n\n"
"""A comment, which readers ignore, and which proxies count as traffic."""


def make_event(name: str, data: bytes, event_id: int | None = None) -> bytes:
    """Return an event; `data` has no line break, as JSON has none. A reader continues after the last `event_id`."""
    prefix = b"" if event_id is None else b"id: %d\n" % event_id
    return b"%bevent: %b\ndata: %b\n\n" % (prefix, name.encode(), data)
