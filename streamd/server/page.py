"""Loads the page for a process that takes connections, off the event loop; reports an installation without one."""

import structlog

from streamd.runtime.background import run_in_background
from streamd.server.config import ServerSection
from streamd.web.files import PageFiles, load_page_files

log = structlog.get_logger(__name__)


async def load_page(settings: ServerSection) -> PageFiles | None:
    """Return the files of the page; `None` if the settings turn it off."""
    if not settings.page:
        return None
    page = await run_in_background(load_page_files)
    if page.problem is not None:
        log.error("page_missing", problem=page.problem)
    return page
