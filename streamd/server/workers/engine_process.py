"""The engine process: a daemon behind workers, which ends with its own status if it must replace their state."""

import structlog

from streamd.runtime.state.opening import StateReplacedError
from streamd.server.config import Config
from streamd.server.daemon import Daemon
from streamd.server.process import ReadConfig
from streamd.server.workers.engine import EnginePart
from streamd.server.workers.plan import EXIT_STATE_REPLACED, PartPlan

log = structlog.get_logger(__name__)


class EngineProcess:
    """One engine process, from `run` until the supervisor ends it."""

    def __init__(self, config: Config, read: ReadConfig, plan: PartPlan) -> None:
        self._daemon = Daemon(config, read, EnginePart(plan, config))

    async def run(self) -> int:
        """Run until the supervisor ends it; return the exit status. Raises `StreamdError` if it cannot start."""
        try:
            return await self._daemon.run()
        except StateReplacedError as error:
            log.warning("state_replaced", reason=str(error))
            return EXIT_STATE_REPLACED
