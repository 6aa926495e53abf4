"""Delivers the alerts of a service as the settings say: makes the client and the senders, and ends them.

The composition of `runtime/alerts/delivery.py` and `server/outbound.py`; decides nothing.
"""

import time

from streamd.core.alerts.settings import AlertSettings
from streamd.runtime.alerts.delivery import make_senders
from streamd.runtime.service import Service
from streamd.server.outbound import OutboundClient, check_ca_file


class AlertDeliveryTask:
    """The delivery of alerts to the receivers of the settings. Raises `ConfigError` if the CA file cannot be used."""

    def __init__(self, service: Service, settings: AlertSettings) -> None:
        check_ca_file(settings.alerts_ca_file)
        self._service = service
        self._settings = settings

    async def run(self) -> None:
        """Deliver alerts until cancelled; return at once without a receiver.

        Begin it when the monitor has started, so that the alerts of the former process are delivered too.
        """
        settings, monitor = self._settings, self._service.alerts
        if monitor is None or not (settings.alertmanagers or settings.alert_webhook):
            return
        client = OutboundClient(token_file=settings.alerts_token_file, ca_file=settings.alerts_ca_file)
        try:
            senders = make_senders(
                settings, monitor.own_active, monitor.own_resolved, monitor.marks, client, time.monotonic()
            )
            delivery = self._service.alert_delivery
            delivery.add_senders(senders)
            monitor.add_receivers(delivery)
            await delivery.run()
        finally:
            await client.close()
