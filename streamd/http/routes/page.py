"""The routes of the page: its document at `/`, and the files that the document loads.

Answers from memory; `streamd/web` has the files, and knows nothing of HTTP.
"""

from collections.abc import Iterable, Mapping

from aiohttp import hdrs, web

from streamd.web.files import PageFile, PageFiles

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""What the page may load: only what the daemon serves, and no script or style in the document itself."""

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
"""The headers of each answer with a file of the page."""

FOREVER = "public, max-age=31536000, immutable"
"""The Cache-Control of a file whose name changes with its content."""


class PageRoutes:
    """Handlers of the page; without `page` it is turned off, and each of them answers 404."""

    def __init__(self, page: PageFiles | None) -> None:
        self._page = page

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/", self.get_index)
        app.router.add_get("/assets/{name}", self.get_asset)

    async def get_index(self, request: web.Request) -> web.Response:
        """Return the document of the page; with status 503 if the installation has no page."""
        if self._page is None:
            raise web.HTTPNotFound(text="there is no page: the setting page in [server] turns it off")
        return _answer_file(request, self._page.index, 200 if self._page.problem is None else 503)

    async def get_asset(self, request: web.Request) -> web.Response:
        """Return a file that the document loads."""
        name = request.match_info["name"]
        found = None if self._page is None else self._page.assets.get(name)
        if found is None:
            raise web.HTTPNotFound(text="there is no such file of the page; after an update, load the page again")
        return _answer_file(request, found, 200)


def _answer_file(request: web.Request, file: PageFile, status: int) -> web.Response:
    """Return a file, compressed if the caller takes it; 304 if the caller has it already."""
    body = file.gzipped if accepts_gzip(request.headers.getall(hdrs.ACCEPT_ENCODING, ())) else None
    tag = file.tag if body is None else f"{file.tag}-gzip"  # each form has a tag of its own
    headers = {
        **SECURITY_HEADERS,
        hdrs.ETAG: f'"{tag}"',
        hdrs.CACHE_CONTROL: FOREVER if file.is_immutable else "no-cache",
    }
    if file.gzipped is not None:
        headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
    if status == 200 and any(each.value in (tag, "*") for each in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    if body is not None:
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    charset = "utf-8" if file.content_type.startswith("text/") else None
    return web.Response(
        body=file.content if body is None else body,
        status=status,
        headers=headers,
        content_type=file.content_type,
        charset=charset,
    )


def accepts_gzip(values: Iterable[str]) -> bool:
    """Whether these headers Accept-Encoding (RFC 9110, section 12.5.3) name gzip, with a weight above 0."""
    weights: dict[str, bool] = {}
    for part in ",".join(values).split(","):
        coding, _, parameters = part.partition(";")
        name, _, weight = parameters.strip().partition("=")
        is_refused = name.strip().lower() == "q" and weight.strip().rstrip("0") in ("", "0.", ".")
        weights[coding.strip().lower()] = not is_refused
    return weights.get("gzip", weights.get("*", False))
