"""The server that a request names: in the path, percent-encoded, or as the parameter `server`, which takes any name."""

from urllib.parse import unquote_to_bytes

from aiohttp import web

from streamd.core.errors import InvalidInputError, InvalidServerError, UnknownServerError
from streamd.runtime.service import Service

SERVER_IN_PATH = r"{server:[\s\S]+}"
"""A server's name as the rest of a path: every character, a newline and a slash too."""


def read_server_name(request: web.Request) -> str | None:
    """Return the server that a request names, None where it names none.

    Raises `UnknownServerError` where the path or query is not UTF-8 once it is percent-decoded (nobody has such a
    name), `InvalidInputError` where two servers are named.
    """
    try:
        check_utf8(request)
    except InvalidServerError as exc:
        raise UnknownServerError(f"{exc}: no server of this name reports") from exc
    names = [*request.match_info.values(), *request.query.getall("server", ())]
    if len(names) > 1:
        raise InvalidInputError(f"servers {names[0]!r} and {names[1]!r} are both named, expected one")
    return names[0] if names else None


def require_slot(service: Service, server: str) -> int:
    """Return a server's slot; raises `UnknownServerError` where nobody of this name reports."""
    slot = service.state.directory.slots.get(server)
    if slot is None:
        raise UnknownServerError(f"no server {server!r} reports")
    return slot


def check_utf8(request: web.Request) -> None:
    """Raise `InvalidServerError` where the path or query is not UTF-8 once it is percent-decoded.

    Decoded with replacements, a name could be that of another server.
    """
    url = request.rel_url
    try:
        unquote_to_bytes(f"{url.raw_path}?{url.raw_query_string}").decode()
    except UnicodeError as exc:
        raise InvalidServerError("server is not valid UTF-8 once the path and query are percent-decoded") from exc
