"""Reads captured bodies, maps them by the rules of the settings, and makes the report.

The features and the step are those of the models that ship.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path

from streamd.core.contract import MAX_STATUS
from streamd.core.errors import ConfigError
from streamd.core.mapping.mapping import RuleMapping
from streamd.core.mapping.samples import STATUS_FEATURE
from streamd.rule_sets import MappingSettings, load_rule_sets, parse_mapping_settings
from streamd.tools.captures.capture import read_capture
from streamd.tools.captures.formats import FormatReader, guess_format
from streamd.tools.mapping.checked import MappingSink
from streamd.tools.mapping.reasons import ReasonFinder
from streamd.tools.mapping.report import CheckedFile, CheckReport
from streamd.tools.networks.contract import NetworkContract


def check_captures(
    files: Sequence[Path], *, settings: MappingSettings, format_name: str | None, now: float
) -> CheckReport:
    """Read files that were captured one after the other, and map their points together.

    If `format_name` is `None`, the format of each body is recognised. Points without a time get `now`. Raises
    `ConfigError` if the settings are wrong, and `CaptureError` if a file cannot be read.
    """
    contract = NetworkContract()
    rule_sets = load_rule_sets(settings)
    features = (*contract.features, STATUS_FEATURE)
    mapping = RuleMapping(rule_sets, features)
    sink = MappingSink(mapping, features, contract.step_seconds)
    reader = FormatReader(sink, now)
    checked = []
    for file in files:
        capture = read_capture(file)
        name = format_name or guess_format(capture)
        reader.read(capture, name)
        checked.append(CheckedFile(file=str(file), format_name=name, body_bytes=len(capture.body)))
    return CheckReport(
        files=checked,
        sink=sink,
        mapping=mapping,
        units={**contract.units, STATUS_FEATURE: f"0 to {MAX_STATUS}"},
        server_labels={rule_set.name: rule_set.server for rule_set in rule_sets},
        reasons=ReasonFinder(rule_sets, mapping),
    )


def read_mapping_settings(file: Path | None) -> MappingSettings:
    """Read the section `[mapping]` of a settings file, or return the defaults; raises `ConfigError`."""
    if file is None:
        return MappingSettings()
    try:
        section = tomllib.loads(file.read_text(encoding="utf-8")).get("mapping", {})
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror or exc}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file}: {exc}") from exc
    if not isinstance(section, dict):
        raise ConfigError(f"{file}: mapping is a value, expected a section")
    return parse_mapping_settings(section)
