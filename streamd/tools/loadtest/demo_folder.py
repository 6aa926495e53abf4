"""The folder of a demo whose daemon is left running: settings, token, engine versions, and the job of its feeder."""

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamd.regular_files import read_regular
from streamd.tools.loadtest.child import HOST

DEMO_SETTINGS = """\
# The settings of this demo; `streamd serve --config` with this file starts its daemon again.
[server]
host = "{host}"
port = {port}
admin_token_file = "admin_token"     # all other calls need no token

[state]
state_dir = "state"
max_servers = 1_000

[engine]
engines = "engines"

[accuracy]
history_every_steps = 12             # more past forecasts than usual, so that each server has some to show

{rules}"""

DEMO_RULES = """\
# The values of the recording are percent of each server's own range: disk_usage is how busy a disk is, not how full,
# and 100 is the most that this server ever had. So the thresholds fit these servers and no others.
[alerts.rules.disk_busy]
target = "disk_usage"
above = 15.0
within = "6h"
for = 1                              # an alert shows at once; on a real fleet, 2 or more
severity = "critical"
annotations = { note = "how busy the disk is, in percent of its own range; not how full" }

[alerts.rules.cpu_busy]
target = "cpu_user"
above = 30.0
within = "2h"
for = 1
severity = "warning"
annotations = { note = "in percent of the most that this server ever had" }

[alerts.rules.memory_full]
target = "mem_used"
above = 99.0
within = "1h"
for = 1
servers = ["machine-1-*"]
severity = "info"
annotations = { note = "in percent of the most that this server ever had" }
"""
"""Alert rules that fit the servers of the recording."""


class FeederJob(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that a feeder sends, and where to."""

    url: str
    recording: str
    """The path of the recorded fleet."""
    first_step: int
    """The step of its first row, as the daemon numbers steps."""
    next_step: int
    """The step of the first row to send."""
    step_seconds: int


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """The files of one demo."""

    path: Path

    @property
    def settings(self) -> Path:
        """The settings of the daemon."""
        return self.path / "config.toml"

    @property
    def admin_token(self) -> Path:
        """The file of the admin token; only its owner may read it."""
        return self.path / "admin_token"

    @property
    def engines(self) -> Path:
        """The engine versions; copies, so that a promotion here changes nothing elsewhere."""
        return self.path / "engines"

    @property
    def feeder_log(self) -> Path:
        """The log of the feeder."""
        return self.path / "feeder.log"

    def fill(self, engines: Path, port: int) -> None:
        """Write the settings and a new token, and copy the versions of `engines`."""
        self.settings.write_text(DEMO_SETTINGS.format(host=HOST, port=port, rules=DEMO_RULES))
        self.admin_token.touch(mode=0o600)
        self.admin_token.write_text(f"streamd_{secrets.token_hex(6)}_{secrets.token_hex(32)}\n")
        for version in sorted(path for path in engines.iterdir() if (path / "config.json").is_file()):
            shutil.copytree(version, self.engines / version.name)

    def write_job(self, job: FeederJob) -> None:
        """Write the job of the feeder."""
        self._job.write_bytes(msgspec.json.encode(job))

    def read_job(self) -> FeederJob:
        """Return the job of the feeder."""
        return msgspec.json.decode(read_regular(self._job), type=FeederJob)

    @property
    def _job(self) -> Path:
        return self.path / "feeder.json"
