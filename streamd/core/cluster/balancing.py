"""Decides when shards may move from a living node to another: after a calm, on request, or after a long wait."""

from collections.abc import Callable

from streamd.core.cluster.membership import Membership

BALANCE_PATIENCE = 10
"""After so many delays without calm, shards are balanced all the same: nodes that come and go are no reason to let
others wait for ever."""


class BalanceTimer:
    """The time of balancing, as one node sees it; `delay_seconds` is that of the calm that it waits for."""

    def __init__(self, membership: Membership, *, delay_seconds: float, lease_seconds: float) -> None:
        self._members = membership
        self._delay_seconds = delay_seconds
        self._lease_seconds = lease_seconds
        self._is_requested = False
        self._unbalanced_since: float | None = None

    def request(self) -> None:
        """Balance without the usual delay, once."""
        self._is_requested = True

    def may_balance(self, is_balanced: Callable[[], bool], now: float) -> bool:
        """Whether shards may move now; `is_balanced` says whether all are where they should be."""
        calm = self._members.measure_calm(now)
        if self._is_requested and is_balanced():
            self._is_requested = False
        is_calm = calm >= self._delay_seconds
        return self._is_late(calm, is_calm, is_balanced, now) or is_calm or self._is_requested

    def _is_late(self, calm: float, is_calm: bool, is_balanced: Callable[[], bool], now: float) -> bool:
        """Whether nodes have waited for their share for so long that a short calm must do."""
        if is_calm or is_balanced():
            self._unbalanced_since = None
        elif self._unbalanced_since is None:
            self._unbalanced_since = now
        since = self._unbalanced_since
        patience = BALANCE_PATIENCE * self._delay_seconds
        return since is not None and now - since >= patience and calm >= self._lease_seconds
