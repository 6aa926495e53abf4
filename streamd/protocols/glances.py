"""The JSON that glances' RESTful export posts, decoded into points. Knows no HTTP and no clock.

As glances 4.5.8 writes it (`exports/glances_restful`): one object with an object for each plugin. The items of a list,
such as interfaces, have flat keys: the name of the item, a dot, and the field (`"eth0.bytes_recv"`). The field `key` of
an item is the name of the field that names it. The series are named as glances' export to InfluxDB names them.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from streamd.core.errors import InvalidInputError, InvalidSampleError, MalformedError
from streamd.core.mapping.series import PointSink, SeriesEntry
from streamd.protocols.json_items import (
    MAX_LENIENT_BYTES,
    MAX_PART_BYTES,
    MISSING,
    SLICE_ITEMS,
    check_part_size,
    check_value_count,
    pause_collection,
    read_number,
    read_value,
)
from streamd.protocols.line_protocol import TEXT_VALUE, check_tags, check_text, make_field_series, make_series_key
from streamd.protocols.telegraf import NESTED_VALUE

MAX_PLUGINS = 1_000
"""The largest number of plugins in one body; glances has about forty."""

MAX_PLUGIN_FIELDS = 20_000
"""The largest number of fields of one plugin; an export of all processes has about ten thousand."""

MAX_COLUMN_DOTS = 32
"""The largest number of dots in a key. Each of them may be the dot between the item and the field."""

_ITEM_KEYS = {"network": "interface_name", "fs": "mnt_point", "diskio": "disk_name", "percpu": "cpu_number"}
"""The field that names the items of a plugin, if the setting `exclude_fields` leaves out the fields `key`."""
_TAG_FIELDS = ("name", "cmdline", "type")
"""Fields of text that are tags in the export to InfluxDB."""

_Tags = dict[str, str]

_split_plugins = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_FAULTS = (msgspec.DecodeError, ValueError, RecursionError)


def decode_glances(body: bytes, sink: PointSink[SeriesEntry], now: float) -> Iterator[None]:
    """Write the numbers of all plugins to a sink, at the time that the body states; a bad number is rejected alone.

    Text is skipped. The time is `now` if the plugin `now` is off. Raises `MalformedError` if the body is not
    such an object, or does not name its host.
    """
    check_value_count(body)
    plugins = _read_plugins(body)
    host = _read_host(plugins)
    time = _read_time(plugins, now)
    points = 0
    for plugin, part in plugins.items():
        given = _read_plugin(part)
        if not isinstance(given, dict) or len(given) > MAX_PLUGIN_FIELDS:
            expected = f"expected an object of at most {MAX_PLUGIN_FIELDS} fields and {MAX_PART_BYTES} bytes"
            sink.reject(InvalidSampleError(f"{plugin[:64]!a}: {expected}"))
            continue
        reader = _PluginReader(plugin, given, host)
        for column, value in given.items():
            points += 1
            reader.add_value(column, value, sink, time)
            if points % SLICE_ITEMS == 0:
                yield
    yield


def _read_plugins(body: bytes) -> dict[str, Any]:
    """Decode a body, a large one with its plugins as bytes.

    glances sends names that are not UTF-8 as surrogates, which only the lenient reader takes.
    """
    is_large = len(body) > MAX_PART_BYTES
    try:
        with pause_collection():
            plugins = _split_plugins(body) if is_large else msgspec.json.decode(body)
    except _FAULTS as exc:
        if len(body) > MAX_LENIENT_BYTES:
            raise MalformedError(f"the body of {len(body)} bytes is not a strict JSON object: {exc}") from exc
        plugins = read_value(body)
    if not isinstance(plugins, dict):
        raise MalformedError("expected an object with an object for each plugin of glances")
    if len(plugins) > MAX_PLUGINS:
        raise MalformedError(f"there are {len(plugins)} plugins, at most {MAX_PLUGINS} are accepted")
    return plugins


def _read_plugin(part: Any) -> Any:
    """Return a plugin of `_read_plugins`, `None` if it is too large or cannot be read."""
    if not isinstance(part, msgspec.Raw):
        return part
    try:
        check_part_size(part)
        with pause_collection():
            return msgspec.json.decode(part)
    except InvalidSampleError:
        return None
    except _FAULTS:
        try:
            return read_value(bytes(part))
        except MalformedError:
            return None


def _read_host(plugins: Mapping[str, Any]) -> str:
    system = _read_plugin(plugins.get("system"))
    host = system.get("hostname") if isinstance(system, dict) else None
    if not isinstance(host, str) or not host:
        raise MalformedError("system.hostname is missing: glances' plugin 'system' names the server and must be on")
    return host


def _read_time(plugins: Mapping[str, Any], now: float) -> float:
    """Return the time of the refresh; glances posts it at the next refresh."""
    given = _read_plugin(plugins.get("now"))
    text = given.get("iso") if isinstance(given, dict) else None
    if not isinstance(text, str):
        return now
    try:
        time = datetime.fromisoformat(text[:64])
        return now if time.tzinfo is None else time.timestamp()
    except (ValueError, OverflowError):
        return now


class _PluginReader:
    """A reader of the fields of one plugin."""

    def __init__(self, plugin: str, given: Mapping[str, Any], host: str) -> None:
        self._plugin = plugin
        self._given = given
        self._host = host
        self._keys = {
            column.removesuffix(".key"): value
            for column, value in given.items()
            if column.endswith(".key") and isinstance(value, str)
        }
        """The name of the field that names an item, for each item."""
        self._tags = dict[str, tuple[_Tags, bytes]]()

    def add_value(self, column: str, given: Any, sink: PointSink[SeriesEntry], time: float) -> None:
        """Add a value, or skip it if it is no number, or reject it."""
        if given is not None and (isinstance(given, bool) or not isinstance(given, int | float)):
            sink.skip(TEXT_VALUE if isinstance(given, str) else NESTED_VALUE)
            return
        try:
            value = read_number(given)
            if value is None:
                sink.skip(MISSING)
                return
            item, field = self._split_column(column)
            if item and field == self._find_key(item):
                sink.skip("name of an item")
                return
            entry = self._find_entry(item, field, sink)
        except InvalidInputError as error:
            sink.reject(type(error)(f"{self._plugin[:64]!a}, {column[:64]!a}: {error}"))
        else:
            sink.add(entry, time, value)

    def _find_entry(self, item: str, field: str, sink: PointSink[SeriesEntry]) -> SeriesEntry:
        """Return the entry of a field, bound if it is new; raises `InvalidSampleError` if its texts cannot be taken."""
        known = self._tags.get(item)
        if known is None:
            tags = self._make_tags(item)
            known = self._tags[item] = (tags, make_series_key(self._plugin, tags))
        tags, series_key = known
        key = (series_key, field)
        entry = sink.find(key)
        if entry is None:
            check_text("the name of the plugin", self._plugin)
            check_tags(tags)
            check_text("the name of a field", field)
            entry = sink.bind(key, make_field_series(self._plugin, tags, field))
        return entry

    def _split_column(self, column: str) -> tuple[str, str]:
        """Return the item and the field of a column; the item is empty if the plugin is no list.

        An item may contain dots, and may begin with the name of another item and a dot: the longest one counts. Raises
        `InvalidSampleError` if there are too many dots.
        """
        if column.count(".") > MAX_COLUMN_DOTS:
            raise InvalidSampleError(f"it has more than {MAX_COLUMN_DOTS} dots")
        end = column.rfind(".")
        if self._keys:
            while end > 0 and column[:end] not in self._keys:
                end = column.rfind(".", 0, end)
        elif self._plugin not in _ITEM_KEYS:
            end = -1
        return ("", column) if end <= 0 else (column[:end], column[end + 1 :])

    def _find_key(self, item: str) -> str:
        return self._keys.get(item) or _ITEM_KEYS.get(self._plugin, "key")

    def _make_tags(self, item: str) -> _Tags:
        """Return the tags that the export to InfluxDB gives an item."""
        tags = {"hostname": self._host}
        prefix = f"{item}." if item else ""
        if item:
            key = self._find_key(item)
            tags[key] = _show_tag(self._given.get(prefix + key), item)
        for field in _TAG_FIELDS:
            value = self._given.get(prefix + field)
            if isinstance(value, str) and value:
                tags[field] = value
        return tags


def _show_tag(value: Any, item: str) -> str:
    """Return the name of an item as text; a number is a float, as in the export to InfluxDB."""
    try:
        return str(float(value)) if isinstance(value, int | float) else value if isinstance(value, str) else item
    except OverflowError:
        return item
