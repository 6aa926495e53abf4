"""The ready-made rule sets, one TOML file for each agent, and the section `[mapping]` of the settings.

`streamd/core/mapping/` compiles the rules; the daemon and `streamd mapping check` load them here.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any

import msgspec

from streamd.core.errors import ConfigError
from streamd.core.mapping.rules import RuleSet, parse_rule_set

_SUFFIX = ".toml"


@cache
def list_rule_sets() -> tuple[str, ...]:
    """Return the names of the ready-made rule sets, sorted."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(file.name.removesuffix(_SUFFIX) for file in files if file.name.endswith(_SUFFIX)))


def load_rule_set(name: str, overrides: Mapping[str, Any] | None = None) -> RuleSet:
    """Read a ready-made rule set; `overrides` change its rules as in `parse_rule_set`.

    Raises `ConfigError` if there is no rule set of this name, or if an override is wrong.
    """
    if name not in list_rule_sets():
        known = ", ".join(list_rule_sets())
        raise ConfigError(f"mapping.rule_sets: there is no rule set {name!r}, expected one of {known}")
    return parse_rule_set(name, _read_table(name), overrides) if overrides else _load_unchanged(name)


@cache
def _load_unchanged(name: str) -> RuleSet:
    """Read a ready-made rule set once: a start checks the settings with it before it serves them."""
    return parse_rule_set(name, _read_table(name))


def _read_table(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__name__).joinpath(name + _SUFFIX).read_text(encoding="utf-8"))


class MappingSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The section `[mapping]`: the ready-made rule sets in use, and its tables, which override or add rule sets."""

    rule_sets: tuple[str, ...] = msgspec.field(default_factory=list_rule_sets)
    max_series: Annotated[int, msgspec.Meta(ge=1)] = 2_000_000
    """The largest number of series at the same time, of all servers together."""
    max_points: Annotated[int, msgspec.Meta(ge=1)] = 50_000_000
    """The largest number of points of rows that may still change, of all servers together."""
    tables: Mapping[str, Mapping[str, Any]] = {}
    """The tables `[mapping.NAME]` by name: the overrides of a ready-made rule set, or a whole own rule set."""


_KEYS = frozenset(MappingSettings.__struct_fields__)


def fold_tables(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section `[mapping]` of a settings file with its rule sets, `[mapping.NAME]`, under the key `tables`.

    Raises `ConfigError` for a key that is neither a setting nor a table.
    """
    given: dict[str, Any] = {key: value for key, value in section.items() if key in _KEYS}
    tables = {key: value for key, value in section.items() if key not in _KEYS}
    for key, value in tables.items():
        if not isinstance(value, Mapping):
            raise ConfigError(f"mapping.{key}: there is no such setting; a rule set is a table, [mapping.{key}]")
    return {**given, "tables": {**tables, **given.get("tables", {})}}


def parse_mapping_settings(section: Mapping[str, Any]) -> MappingSettings:
    """Read the section `[mapping]` of a settings file; raises `ConfigError` naming the key."""
    try:
        return msgspec.convert(fold_tables(section), MappingSettings)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"mapping: {exc}") from exc


def load_rule_sets(settings: MappingSettings) -> list[RuleSet]:
    """Return the rule sets that the settings choose, in order of precedence.

    Own rule sets come first, so their rules win over those of the ready-made ones. Raises `ConfigError` naming the rule
    set and the rule.
    """
    ready_made = list_rule_sets()
    own = [name for name in settings.tables if name not in ready_made]
    for name in settings.tables:
        if name not in own and name not in settings.rule_sets:
            raise ConfigError(f"mapping.{name}: overrides a rule set that rule_sets does not list")
    if len(set(settings.rule_sets)) < len(settings.rule_sets):
        raise ConfigError(f"mapping.rule_sets: is {list(settings.rule_sets)}, expected each name once")
    rule_sets = [_parse_own_rule_set(name, settings.tables[name]) for name in own]
    rule_sets += [load_rule_set(name, settings.tables.get(name)) for name in settings.rule_sets]
    return rule_sets


def _parse_own_rule_set(name: str, table: Mapping[str, Any]) -> RuleSet:
    rule_set = parse_rule_set(name, table)
    if not rule_set.rules and not rule_set.drop:
        expected = ", ".join(list_rule_sets())
        raise ConfigError(
            f"mapping.{name}: has no rule; it is an own rule set, since the ready-made ones are {expected}"
        )
    return rule_set
