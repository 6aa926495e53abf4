"""The fate of the notifications to one receiver: counts for the metrics, and lines in the log when it changes.

Sends nothing.
"""

import structlog

from streamd.runtime.outbound import PostAnswer

log = structlog.get_logger(__name__)

RESULTS = ("delivered", "refused", "failed")
"""The results of a notification: taken, refused as it is, or not taken for now, which is tried again."""


class DeliveryRecord:
    """The counts of one receiver; `name` is shown in metrics and logs, so it has no secret."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = dict.fromkeys(RESULTS, 0)
        """Notifications by result, each attempt for itself."""
        self.last_success = 0.0
        """The time (epoch seconds) of the last POST that was taken; 0 if there was none since start."""
        self._complaint = ""

    def note(self, answer: PostAnswer, alerts: int, now: float) -> None:
        """Note the answer to a POST of so many alerts, at the time `now` (epoch seconds)."""
        if answer.is_taken:
            self.counts["delivered"] += alerts
            self.last_success = now
            if self._complaint:
                log.info("alert_receiver_recovered", receiver=self.name)
            self._complaint = ""
            return
        self.counts["refused" if answer.is_refused else "failed"] += alerts
        # By the status alone: the words of an answer may differ each time, and each would be a line of the log.
        complaint = str(answer.status)
        if complaint != self._complaint:
            log.error("alerts_not_delivered", receiver=self.name, status=answer.status, reason=answer.reason)
        self._complaint = complaint
