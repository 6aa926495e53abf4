"""The metrics of tokens, by their names, which only callers that may read every server get."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streamd.core.access.access_list import AccessList


class TokenMetrics(Collector):
    """The use that is made of each token; a token has few series, and the tokens file bounds the tokens."""

    def __init__(self, access: AccessList) -> None:
        self._access = access
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Read the use of each token."""
        sockets = GaugeMetricFamily(
            "streamd_token_sockets", "Open sockets and event streams by token", labels=["token"]
        )
        servers = GaugeMetricFamily(
            "streamd_token_servers", "Servers that a token writes, if their number is limited", labels=["token"]
        )
        refusals = CounterMetricFamily(
            "streamd_token_limited",
            "Requests and sockets that were refused by a limit of their token",
            labels=["token"],
        )
        for caller in self._access.callers:
            sockets.add_metric([caller.name], caller.usage.sockets)
            servers.add_metric([caller.name], caller.usage.servers)
            refusals.add_metric([caller.name], caller.usage.refusals)
        return iter((sockets, servers, refusals))

    def render(self) -> bytes:
        """Return the metrics in the Prometheus exposition format."""
        return generate_latest(self._registry)
