"""Tests `streamd/http/worker_app.py`: every route of a daemon is one of a worker, with the same rule of access."""

from pathlib import Path

from streamd.core.access.access_list import AccessList
from streamd.http.access.origins import OriginPolicy
from streamd.http.access.rules import ROUTE_RULES, VERSION_RULES, find_route_key
from streamd.http.forwarding import EngineForwarder
from streamd.http.requests import TransportLimits
from streamd.http.worker_app import OWN_ROUTES, make_worker_app
from tests.support.process_rig import run_processes


async def test_a_worker_has_every_route(tmp_path: Path) -> None:
    async with run_processes(tmp_path, workers=2) as rig:
        worker = rig.all[0]
        app = make_worker_app(
            worker.service,
            TransportLimits(),
            worker.ingest,
            worker.ingest.singles,
            EngineForwarder("nowhere", lambda: False),
            access=AccessList(),
            origins=OriginPolicy(),
        ).app
        keys = {find_route_key(route) for route in app.router.routes()}
        assert keys == {*ROUTE_RULES, *VERSION_RULES}
        assert keys >= OWN_ROUTES
