"""The route for the documents of pcp2json: `POST /pcp`.

`streamd ingest pcp2json` sends them here, and so does pcp2json itself with `--url`, which it has since pcp 6.0.5.
"""

from aiohttp import web

from streamd.core.errors import StreamdError
from streamd.http.protocols.commit_answers import answer_commit, answer_refusal
from streamd.http.protocols.intake import Intake
from streamd.protocols.pcp import decode_pcp
from streamd.runtime.service import Service


class PcpRoutes:
    """The handler for documents of pcp2json."""

    def __init__(self, service: Service, intake: Intake) -> None:
        self._intake = intake

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_post("/pcp", self.post_document)

    async def post_document(self, request: web.Request) -> web.Response:
        """Take one document; bad values in it are counted and named, and the good ones are taken."""
        try:
            return answer_commit(await self._intake.take_body(request, "pcp", decode_pcp))
        except StreamdError as error:
            return answer_refusal(error)
