"""The server that a request names: in the path, percent-encoded, or as the parameter `server`, which takes any name.

Reads the request and the directory of servers; changes neither.
"""

from urllib.parse import unquote_to_bytes

from aiohttp import web

from streamd.core.errors import InvalidInputError, InvalidServerError, UnknownServerError
from streamd.runtime.service import Service

SERVER_IN_PATH = r"{server:[\s\S]+}"
"""A pattern for the rest of a path as the name of a server: any characters, also newlines and slashes."""

_WINDOW_IN_PATH = r"{server:(?![\s\S]+/accuracy\Z)[\s\S]+}"
_PATTERNS = {"/v1/servers/{server}": f"/v1/servers/{_WINDOW_IN_PATH}"}


def make_resource_path(path: str) -> str:
    """Return a path with `{server}`, as the rules of access have it, as aiohttp's router takes it.

    A literal `/accuracy` behind a name belongs to another route, whatever the order in which routes are added; in a
    name that ends like that, the slash is percent-encoded.
    """
    return _PATTERNS.get(path, path.replace("{server}", SERVER_IN_PATH))


def read_server_name(request: web.Request) -> str | None:
    """Return the server that a request names, `None` if it names no server.

    Raises `UnknownServerError` if the percent-decoded path or query is not UTF-8 (no server has such a name),
    `InvalidInputError` if two servers are named.
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
    """Return the slot of a server; raises `UnknownServerError` if no server of this name reports."""
    slot = service.state.directory.slots.get(server)
    if slot is None:
        raise UnknownServerError(f"no server {server!r} reports")
    return slot


def check_utf8(request: web.Request) -> None:
    """Raise `InvalidServerError` if the percent-decoded path or query is not UTF-8.

    aiohttp would replace the invalid bytes, and the result could be the name of another server.
    """
    url = request.rel_url
    try:
        unquote_to_bytes(f"{url.raw_path}?{url.raw_query_string}").decode()
    except UnicodeError as exc:
        raise InvalidServerError("server is not valid UTF-8 once the path and query are percent-decoded") from exc
