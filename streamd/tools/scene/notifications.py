"""Notifications as a person would get them: a receiver that counts, and a real Alertmanager that calls it.

Judges nothing.
"""

import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from streamd.tools.loadtest.child import HOST
from streamd.tools.scene.metrics import fetch_json
from streamd.tools.scene.processes import SceneProcess

ALERTMANAGER_PACKAGE = "prometheus-alertmanager"
TEMPLATE_FOLDER = "/usr/share/prometheus/alertmanager"

_ALERTMANAGER_SETTINGS = """\
route:
  receiver: person
  group_by: ["..."]
  group_wait: 1s
  group_interval: 1s
  repeat_interval: 1h
receivers:
  - name: person
    webhook_configs:
      - url: http://{host}:{port}/alertmanager
        send_resolved: true
"""

Notification = tuple[str, str]
"""A server, and `firing` or `resolved`."""


class NotificationCounter:
    """Counts the notifications that come from Alertmanager, and those that come straight from the daemon."""

    def __init__(self) -> None:
        self.by_alertmanager: Counter[Notification] = Counter()
        self.by_daemon: Counter[Notification] = Counter()
        self.ids: set[str] = set()
        """The ids of the daemon's notifications; one that is repeated has the same."""

    def count_states(self, state: str) -> tuple[int, int]:
        """Return the servers with a notification of a state: by Alertmanager, and by the daemon."""
        counts = [
            len([server for server, each in counter if each == state])
            for counter in (self.by_alertmanager, self.by_daemon)
        ]
        return counts[0], counts[1]

    @asynccontextmanager
    async def serve(self, port: int) -> AsyncIterator[None]:
        """Take notifications at a port."""
        app = web.Application()
        app.router.add_post("/alertmanager", self._take_from_alertmanager)
        app.router.add_post("/daemon", self._take_from_daemon)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, port).start()
            yield
        finally:
            await runner.cleanup()

    async def _take_from_alertmanager(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=_AlertmanagerCall)
        for alert in body.alerts:
            self.by_alertmanager[alert.labels["server"], alert.status] += 1
        return web.Response()

    async def _take_from_daemon(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=_DaemonCall)
        for alert in body.alerts:
            self.by_daemon[alert.server, alert.state] += 1
            self.ids.add(alert.id)
        return web.Response()


class SceneAlertmanager:
    """An Alertmanager, which notifies for each alert alone; `program` is its command, at any place."""

    def __init__(
        self, session: aiohttp.ClientSession, program: Path, folder: Path, port: int, receiver_port: int
    ) -> None:
        settings = folder / "alertmanager.yml"
        settings.write_text(_ALERTMANAGER_SETTINGS.format(host=HOST, port=receiver_port))
        self.url = f"http://{HOST}:{port}"
        command = [
            str(_make_movable_program(program, folder)),
            f"--config.file={settings}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address={HOST}:{port}",
            "--cluster.listen-address=",
            # It stores whom it has notified at this interval: a kill makes it forget what came after.
            "--data.maintenance-interval=1s",
        ]
        self.process = SceneProcess("alertmanager", command, folder)
        self._session = session

    async def count_alerts(self) -> int:
        """Return the number of alerts that it holds for active. Raises `UnreachableError`."""
        return len(await fetch_json(self._session, f"{self.url}/api/v2/alerts?active=true"))


def _make_movable_program(program: Path, folder: Path) -> Path:
    """Return the program, or a copy of Debian's that reads its templates in the folder where it runs.

    Debian's has their absolute path, which only root could provide for a package that is not installed.
    """
    templates = list((program.parents[1] / TEMPLATE_FOLDER.removeprefix("/usr/")).glob("*.tmpl"))
    if not templates:
        return program
    for template in templates:
        shutil.copyfile(template, folder / template.name)
    here = "./" * (len(TEMPLATE_FOLDER) // 2)
    assert len(here) == len(TEMPLATE_FOLDER), "the path is replaced by one of the same length"
    copy = folder / program.name
    copy.write_bytes(program.read_bytes().replace(TEMPLATE_FOLDER.encode(), here.encode()))
    copy.chmod(0o755)
    return copy


class _AlertmanagerAlert(msgspec.Struct):
    status: str
    labels: dict[str, str]


class _AlertmanagerCall(msgspec.Struct):
    alerts: list[_AlertmanagerAlert]


class _DaemonAlert(msgspec.Struct):
    id: str
    server: str
    state: str


class _DaemonCall(msgspec.Struct):
    alerts: list[_DaemonAlert]
