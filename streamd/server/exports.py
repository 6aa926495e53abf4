"""The forecasts that are exported as metrics: checks their settings before the state is opened, and makes the client.

What is sent is up to `runtime/remote_write`.
"""

from streamd.core.contract import ModelContract
from streamd.core.forecast_export.choice import ForecastExport
from streamd.runtime.service import Service
from streamd.server.config import Config
from streamd.server.limits import make_service_limits
from streamd.server.outbound import OutboundClient


def check_exports(config: Config, contract: ModelContract) -> None:
    """Raise `ConfigError` if the settings of `forecast_metrics` do not fit the model."""
    exports = make_service_limits(config).exports
    if exports.servers:
        ForecastExport(exports, contract)


class RemoteWriteTask:
    """The remote write of a service, if the settings want one; make it on the running loop.

    Raises `ConfigError` if the CA file cannot be used.
    """

    def __init__(self, service: Service, config: Config) -> None:
        self._writer = service.remote_write
        settings = config.remote_write
        self._client = None
        if self._writer is not None:
            self._client = OutboundClient(
                token_file=settings.remote_write_token_file, ca_file=settings.remote_write_ca_file
            )

    async def run(self) -> None:
        """Send forecasts until the task is cancelled; return at once if there is no store."""
        if self._writer is None or self._client is None:
            return
        try:
            await self._writer.run(self._client)
        finally:
            await self._client.close()
