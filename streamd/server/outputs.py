"""The outputs of a daemon beside its subscriptions, as the settings say: alerts, and metrics that it sends.

Checks their settings before the state is opened, and starts their tasks in the order that they need.
"""

from streamd.core.alerts.rules import bind_alert_rules
from streamd.core.contract import ModelContract
from streamd.runtime.background_tasks import BackgroundTasks
from streamd.runtime.service import Service
from streamd.server.alert_delivery import AlertDeliveryTask
from streamd.server.config import Config
from streamd.server.exports import RemoteWriteTask, check_exports


def check_outputs(config: Config, contract: ModelContract) -> None:
    """Raise `ConfigError` if the settings of exported metrics or the rules of alerts do not fit the model."""
    check_exports(config, contract)
    bind_alert_rules(config.alerts, contract)


class OutputTasks:
    """The tasks of a service's outputs; make it on the running loop.

    Raises `ConfigError` if a CA file cannot be used.
    """

    def __init__(self, service: Service, config: Config, tasks: BackgroundTasks) -> None:
        self._service = service
        self._tasks = tasks
        self._remote_write = RemoteWriteTask(service, config)
        self._alert_delivery = AlertDeliveryTask(service, config.alerts)

    def start_exports(self) -> None:
        """Start to send metrics."""
        self._tasks.start(self._remote_write.run())

    async def start_alerts(self) -> None:
        """Start the alerts before the first forecast; returns when those of the former process are active again."""
        await self._service.start_alerts()
        self._tasks.start(self._alert_delivery.run())
