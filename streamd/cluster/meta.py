"""The facts that all nodes of a cluster have in common: its first node records them, one that differs is refused.

Compares names and numbers only; which version serves is decided elsewhere.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from streamd.cluster.log import LogAwayError, SharedTable, WrongSequenceError
from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError

META_KEY = "meta"

LOG_FORMAT = 1
"""The form of what is in the logs. A release that writes another one cannot share a cluster with this one."""


class ClusterMeta(msgspec.Struct, frozen=True, kw_only=True):
    """The shards, settings and contract that the logs of a cluster were made with."""

    format: int = LOG_FORMAT
    shards: int
    aggregation: str
    """Whether the rows of plain samples have their last values or their means."""
    late_tolerance_steps: int
    features: tuple[str, ...]
    targets: tuple[str, ...]
    quantiles: tuple[float, ...]
    context_length: int
    horizon: int
    step_seconds: int


def make_meta(contract: ModelContract, *, shards: int, aggregation: str, late_tolerance_steps: int) -> ClusterMeta:
    """Return what a node with this contract and these settings must find."""
    return ClusterMeta(
        shards=shards,
        aggregation=aggregation,
        late_tolerance_steps=late_tolerance_steps,
        features=contract.features,
        targets=contract.targets,
        quantiles=contract.quantiles,
        context_length=contract.context_length,
        horizon=contract.horizon,
        step_seconds=contract.step_seconds,
    )


_PLACES: Mapping[str, str] = {
    "shards": "[cluster] shards",
    "aggregation": "[windows] aggregation",
    "late_tolerance_steps": "[windows] late_tolerance_steps",
    "format": "this release: the format of the logs",
}
"""What an operator changes, by field; the other fields are of the engine version."""


async def check_meta(control: SharedTable, cluster: str, mine: ClusterMeta, others: Collection[str] = ()) -> None:
    """Record what this node has, or compare it with what the first node recorded; `others` are the nodes that run.

    Raises `ConfigError` naming the first difference with both values, `LogAwayError`, also while nothing is recorded
    though others run: the table was deleted, and they put it back (`ControlRestorer`).
    """
    if others and META_KEY not in await control.read_all():
        raise LogAwayError(
            f"the table of control of the cluster {cluster!r} was made anew: {', '.join(others)} put it back"
        )
    try:
        await control.put(META_KEY, msgspec.msgpack.encode(mine), expected_revision=0)
    except WrongSequenceError:
        recorded = await read_meta(control)
        if recorded is None:  # it was deleted meanwhile
            raise LogAwayError(f"the key {META_KEY!r} of the cluster {cluster!r} changes; it is read again") from None
        compare_meta(mine, recorded, cluster)


def compare_meta(mine: ClusterMeta, recorded: ClusterMeta, cluster: str) -> None:
    """Raise `ConfigError` naming the first difference with both values, if there is one."""
    if difference := describe_difference(mine, recorded, cluster):
        raise ConfigError(difference)


async def read_meta(control: SharedTable) -> ClusterMeta | None:
    """Return what the first node recorded; `None` if no node was ever there.

    Raises `ConfigError` if it cannot be read, so that no node of this release joins what a later one has made.
    """
    entry = (await control.read_all()).get(META_KEY)
    return None if entry is None else decode_meta(entry.value)


def decode_meta(value: bytes) -> ClusterMeta:
    """Return what the key `META_KEY` has; raises `ConfigError` as `read_meta`."""
    try:
        return msgspec.msgpack.decode(value, type=ClusterMeta)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"the key {META_KEY!r} of the cluster's table of control cannot be read, expected what its first node "
            f"recorded: a later release may have written it, or it is damaged ({exc})"
        ) from exc


def describe_difference(mine: ClusterMeta, recorded: ClusterMeta, cluster: str) -> str | None:
    """Return the first difference as a sentence, `None` if they are equal."""
    for name in ("format", *mine.__struct_fields__):
        here, there = getattr(mine, name), getattr(recorded, name)
        if here == there:
            continue
        place = _PLACES.get(name, f"the engine version: {name}")
        if isinstance(here, tuple):
            here, there = _describe_lists(here, there)
        return f"{place} is {here}, expected {there}, as the nodes of the cluster {cluster!r} have"
    return None


def _describe_lists(here: Sequence[object], there: Sequence[object]) -> tuple[str, str]:
    """Return two lists as texts; of long ones, what only one of them has."""
    only_here, only_there = (sorted(map(str, set(a) - set(b))) for a, b in ((here, there), (there, here)))
    if len(here) + len(there) <= 8 or not (only_here or only_there):
        return str(list(here)), str(list(there))
    return f"a list with {only_here or 'nothing else'}", f"one with {only_there or 'nothing else'} instead"
