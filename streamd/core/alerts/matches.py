"""The rules that apply to each server, remembered for a slot until it gets another server. Has no clock."""

from collections.abc import Sequence

import numpy as np

from streamd.core.alerts.evaluation import Flags
from streamd.core.alerts.rules import AlertRule
from streamd.core.arrays import Numbers, Slots

_UNKNOWN = -1


class RuleMatches:
    """The rules of each slot's server, by the globs of the rules; `names` are those of all slots, by slot."""

    def __init__(self, rules: Sequence[AlertRule], names: Sequence[str | None]) -> None:
        self._globs = [rule.servers for rule in rules]
        self._names = names
        self._is_all = all(globs.is_all for globs in self._globs)
        self._matched = np.ones((1 if self._is_all else len(names), len(rules)), np.bool_)
        self._generations: Numbers = np.full(len(names), _UNKNOWN, np.int64)

    def find(self, slots: Slots, generations: Numbers) -> Flags:
        """Return which rules apply to the servers of slots, `(n, rules)`; `generations (n,)` are those of the slots.

        A slot whose generation has changed is matched again. A slot without a server has no rules.
        """
        if self._is_all:
            return np.broadcast_to(self._matched, (len(slots), len(self._globs)))
        for place in np.flatnonzero(self._generations[slots] != generations).tolist():
            slot = int(slots[place])
            name = self._names[slot]
            self._matched[slot] = [name is not None and globs.matches(name) for globs in self._globs]
            self._generations[slot] = generations[place]
        matched: Flags = self._matched[slots]
        return matched
