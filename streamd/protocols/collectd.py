"""Decodes the JSON of collectd's write_http into points. Its only state: the hosts that send rates, by their sender.

As collectd 5.12.0 sends it (seen on the wire): `dstypes` is `derive` both for the raw counters of the default and for
the rates of `StoreRates true`. Counters are written as whole numbers; rates have a fraction, unless by chance, and the
first rate of each series is null. A step is split over several bodies, and nothing in a body is ordered.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from itertools import islice

import msgspec

from streamd.core.errors import InvalidInputError, InvalidSampleError
from streamd.core.mapping.series import Kind, PointSink, SeriesEntry, SourceSeries
from streamd.protocols.json_items import MISSING, ItemDecoder, bind_series, check_time, read_number

MAX_RATE_HOSTS = 100_000
"""The number of hosts that are remembered as sending rates; beyond it the longest silent one is forgotten."""

WHOLE_NUMBERS = 100
"""If a host sends this many whole numbers other than 0 in a row, they are counters: `StoreRates` was turned off."""

MAX_VALUES = 64
"""The largest number of values of one item; the types that collectd comes with have at most five."""

_LONGEST_HOST = 1_024
"""The largest number of characters in the name of a host that is remembered."""

_SLICE_VALUE_LISTS = 250
"""The number of items after which a decoder yields; each may have `MAX_VALUES` values."""

_LAST_GENERATION = 9
"""The generation after which a host stays with rates. Each change of generation binds its series again, so the number
of changes is bounded."""

_COUNTERS = ("derive", "counter")


class _ValueList(msgspec.Struct, gc=False, kw_only=True):
    values: list[int | float | None]
    dstypes: list[str]
    dsnames: list[str]
    time: float
    host: str
    plugin: str
    plugin_instance: str = ""
    type: str
    type_instance: str = ""


_value_lists = ItemDecoder(_ValueList)


class _RateHost:
    """A host that sent rates. Its generation is odd while it sends rates, and even while it sends counters again."""

    __slots__ = ("generation", "whole")

    def __init__(self) -> None:
        self.generation = 1
        self.whole = 0
        """The whole numbers other than 0 since the last fraction."""


class _RateHosts:
    """The hosts that send rates, each by its sender.

    A sender may name any host, also one that it may not write, so it must change nothing for another sender.
    """

    def __init__(self, max_hosts: int) -> None:
        self._max_hosts = max_hosts
        self._by_sender: defaultdict[str, OrderedDict[str, _RateHost]] = defaultdict(OrderedDict)
        self._count = 0

    def find(self, sender: str, name: str) -> _RateHost | None:
        """Return a host that the sender has sent rates of, or `None`."""
        hosts = self._by_sender.get(sender)
        return None if hosts is None else hosts.get(name)

    def add(self, sender: str, name: str) -> None:
        """Remember a host; beyond the limit another one is forgotten."""
        self._by_sender[sender][name] = _RateHost()
        self._count += 1
        if self._count > self._max_hosts:
            self._forget_one(sender)

    def mark_newest(self, sender: str, name: str) -> None:
        """Make a host the last one to be forgotten."""
        self._by_sender[sender].move_to_end(name)

    def _forget_one(self, sender: str) -> None:
        """Forget a host of the sender, or of the one with the most hosts if this one has less than its share."""
        hosts = self._by_sender[sender]
        if len(hosts) * len(self._by_sender) <= self._max_hosts:
            sender, hosts = max(self._by_sender.items(), key=lambda each: len(each[1]))
        hosts.popitem(last=False)
        self._count -= 1
        if not hosts:
            del self._by_sender[sender]


class CollectdDecoder:
    """A decoder that remembers which hosts send rates, and so what `derive` means."""

    def __init__(self, max_hosts: int = MAX_RATE_HOSTS) -> None:
        self._hosts = _RateHosts(max_hosts)

    def decode(self, body: bytes, sink: PointSink[SeriesEntry], sender: str = "") -> Iterator[None]:
        """Write the points of a body of one sender to the sink, and yield after each slice.

        Raises `MalformedError` if the body is neither a JSON array nor an object, its only item.
        """
        items = iter(_value_lists.decode(body))
        begin = 0
        while part := list(islice(items, _SLICE_VALUE_LISTS)):
            # Before the points are added, because the zeros of an idle interface may precede the first fraction.
            self._learn_rates(part, sender)
            for index, item in enumerate(part, begin):
                try:
                    if isinstance(item, InvalidSampleError):
                        raise item
                    self._add_values(index, item, sink, sender)
                except InvalidInputError as error:
                    sink.reject(type(error)(f"[{index}]: {error}"))
            begin += len(part)
            yield

    # ------------------------------------------------------------ rates or counters
    def _learn_rates(self, items: list[_ValueList | InvalidSampleError], sender: str) -> None:
        for item in items:
            if isinstance(item, _ValueList) and len(item.values) <= MAX_VALUES and len(item.host) <= _LONGEST_HOST:
                for value, dstype in zip(item.values, item.dstypes, strict=False):
                    if dstype in _COUNTERS:
                        self._learn_host(sender, item.host, value)

    def _learn_host(self, sender: str, name: str, value: int | float | None) -> None:
        host = self._hosts.find(sender, name)
        if not isinstance(value, int):
            if host is None:
                self._hosts.add(sender, name)
                return
            if not host.generation % 2:
                host.generation += 1
            host.whole = 0
            self._hosts.mark_newest(sender, name)
        elif host is not None and value and host.generation % 2:
            host.whole += 1
            if host.whole >= WHOLE_NUMBERS and host.generation < _LAST_GENERATION:
                host.generation += 1

    # ------------------------------------------------------------ points
    def _add_values(self, index: int, item: _ValueList, sink: PointSink[SeriesEntry], sender: str) -> None:
        if len(item.values) > MAX_VALUES:
            raise InvalidSampleError(f"{len(item.values)} values, at most {MAX_VALUES} are taken")
        if not len(item.values) == len(item.dstypes) == len(item.dsnames):
            raise InvalidSampleError(
                f"{len(item.values)} values, {len(item.dstypes)} dstypes and {len(item.dsnames)} dsnames, expected "
                "one of each for each value"
            )
        time = check_time(item.time)
        for position, (value, dstype, ds) in enumerate(zip(item.values, item.dstypes, item.dsnames, strict=True)):
            try:
                number = read_number(value)
                if number is None:
                    sink.skip(MISSING)
                elif dstype == "absolute":
                    sink.skip("absolute value")
                else:
                    generation = self._find_generation(item.host, dstype, sender)
                    sink.add(_find_entry(item, ds, generation, sink), time, number)
            except InvalidInputError as error:
                sink.reject(type(error)(f"[{index}].values[{position}]: {error}"))

    def _find_generation(self, name: str, dstype: str, sender: str) -> int:
        """Return the generation of a host's counters, -1 for gauges; an odd one means that the value is no counter."""
        if dstype == "gauge":
            return -1
        if dstype not in _COUNTERS:
            raise InvalidSampleError(f"its dstype is {dstype[:64]!r}, expected gauge, derive, counter or absolute")
        host = self._hosts.find(sender, name)
        return 0 if host is None else host.generation


def _find_entry(item: _ValueList, ds: str, generation: int, sink: PointSink[SeriesEntry]) -> SeriesEntry:
    key = (item.host, item.plugin, item.plugin_instance, item.type, item.type_instance, ds, generation)
    entry = sink.find(key)
    if entry is not None:
        return entry
    labels = {
        "host": item.host,
        "plugin_instance": item.plugin_instance,
        "type_instance": item.type_instance,
        "ds": ds,
    }
    kind = Kind.GAUGE if generation % 2 else Kind.COUNTER
    return bind_series(sink, key, SourceSeries(f"{item.plugin}/{item.type}", labels, kind))
