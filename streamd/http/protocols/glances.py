"""The route for glances' RESTful export: `POST /glances`.

Seen with glances 4.5.8: it opens a connection for each refresh, ignores the answer, and sends nothing again.
"""

import time
from collections.abc import Callable, Iterator

from aiohttp import web

from streamd.core.errors import StreamdError
from streamd.http.protocols.commit_answers import answer_commit, answer_refusal
from streamd.http.protocols.intake import Intake
from streamd.protocols.glances import decode_glances
from streamd.runtime.aggregation.batch import PointBatch
from streamd.runtime.service import Service


class GlancesRoutes:
    """The handler for glances' RESTful export."""

    def __init__(self, service: Service, intake: Intake, wall: Callable[[], float] = time.time) -> None:
        self._intake = intake
        self._wall = wall

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_post("/glances", self.post_refresh)

    async def post_refresh(self, request: web.Request) -> web.Response:
        """Take the values of one refresh; bad ones are counted and named, and the good ones are taken."""
        now = self._wall()

        def decode(body: bytes, batch: PointBatch) -> Iterator[None]:
            return decode_glances(body, batch, now)

        try:
            return answer_commit(await self._intake.take_body(request, "glances", decode))
        except StreamdError as error:
            return answer_refusal(error)
