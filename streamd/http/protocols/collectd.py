"""The route for collectd's plugin write_http in JSON: `POST /collectd`.

Seen with collectd 5.12.0: only 200 counts as success; with `LogHttpError true` it logs a 204 as an error. It keeps
nothing, so a body that is answered with an error is lost, whatever the status is.
"""

from functools import partial

from aiohttp import web

from streamd.core.errors import StreamdError
from streamd.http.access.context import get_caller
from streamd.http.protocols.commit_answers import answer_commit, answer_refusal
from streamd.http.protocols.intake import Intake
from streamd.protocols.collectd import CollectdDecoder
from streamd.runtime.service import Service


class CollectdRoutes:
    """The handler for collectd, with a decoder that remembers hosts."""

    def __init__(self, service: Service, intake: Intake) -> None:
        self._intake = intake
        self._decoder = CollectdDecoder()

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_post("/collectd", self.post_values)

    async def post_values(self, request: web.Request) -> web.Response:
        """Take one body; bad values in it are counted and named, and the good ones are taken."""
        caller = get_caller(request)
        decode = partial(self._decoder.decode, sender="" if caller.is_anonymous else caller.name)
        try:
            return answer_commit(await self._intake.take_body(request, "collectd", decode))
        except StreamdError as error:
            return answer_refusal(error)
