"""Check whether the daemon can run here, and how to repair it.

Reads what `streamd serve` would read, with the same settings, and changes nothing.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from streamd.core.errors import ConfigError
from streamd.server.config import Config, LogSection, load_config
from streamd.server.doctor import access, cluster, engines, folders, machine
from streamd.server.doctor.findings import (
    DoctorCheck,
    Finding,
    FindingLevel,
    compute_exit_status,
    make_error,
    make_ok,
    run_checks,
)
from streamd.server.doctor.probing import PROBE_SECONDS, ProbedRuntimes, probe_runtimes
from streamd.server.logs import configure_logs

DOCTOR_EPILOG = """\
The variables STREAMD_<KEY> count as they do for the daemon. Run it as the user of the daemon: permissions are those of
the user who runs it.

exit status: 0 all is well; 1 there are warnings; 2 there are errors; 130 interrupted"""

_MARKS = {FindingLevel.OK: "ok", FindingLevel.WARNING: "WARN", FindingLevel.ERROR: "ERROR"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = DOCTOR_EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings to check [default: the built-in settings]"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: a list of findings")


def main(args: argparse.Namespace) -> int:
    """Run all checks, print their findings, and return the exit status."""
    configure_logs(LogSection(log_level="warning"))  # to standard error: standard output is for the findings
    try:
        findings = examine(args.config, os.environ)
    except KeyboardInterrupt:
        return 130
    text = (
        msgspec.json.format(msgspec.json.encode(findings), indent=2).decode()
        if args.json
        else format_findings(findings)
    )
    sys.stdout.write(f"{text}\n")
    return compute_exit_status(findings)


def examine(path: Path | None, environ: Mapping[str, str]) -> list[Finding]:
    """Run all checks by the settings in a file; if they are wrong, those that need no settings."""
    try:
        config = load_config(path, environ)
    except ConfigError as exc:
        wrong = make_error("settings", str(exc), "correct it; docs/settings.md lists every setting")
        return [wrong, *run_checks(make_machine_checks(Config()))]
    settings = make_ok("settings", f"{path or 'the built-in settings'}, with the variables STREAMD_<KEY>")
    return [settings, *run_checks([*make_machine_checks(config), *make_daemon_checks(config, environ)])]


def make_machine_checks(config: Config) -> list[DoctorCheck]:
    """Return the checks of the machine."""
    return [
        DoctorCheck("cpu", machine.check_processor),
        DoctorCheck("memory", partial(machine.check_state_memory, config.state.max_servers, folders.SLOT_BYTES)),
        DoctorCheck("limits", partial(machine.check_descriptors, config.server)),
        DoctorCheck("clock", machine.check_clock),
    ]


def make_daemon_checks(config: Config, environ: Mapping[str, str]) -> list[DoctorCheck]:
    """Return the checks of what the settings name: runtimes, versions, folders, address and access."""
    probes: list[ProbedRuntimes] = []  # one probe for all checks of runtimes; the first of them runs it

    def get_probe() -> ProbedRuntimes:
        if not probes:
            probes.append(probe_runtimes())
        return probes[0]

    seconds = PROBE_SECONDS + 2 * engines.NVIDIA_SMI_SECONDS
    return [
        DoctorCheck(
            "gpu", lambda: engines.check_gpus(get_probe(), config.engine, engines.read_driver_lines()), seconds
        ),
        DoctorCheck("backend", lambda: engines.check_backends(get_probe(), config.engine), seconds),
        DoctorCheck("engines", lambda: engines.check_repository(config.engine, get_probe()), seconds),
        DoctorCheck("state", partial(folders.check_state, config.state)),
        DoctorCheck("port", partial(access.check_port, config)),
        DoctorCheck("access", partial(access.check_access, config, environ)),
        DoctorCheck("tls", partial(access.check_certificate, config)),
        DoctorCheck(cluster.CLUSTER_SUBJECT, partial(cluster.check_cluster, config)),
    ]


def format_findings(findings: Sequence[Finding]) -> str:
    """Return one line for each finding, with the remedy below it, and a last line that sums them up."""
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.level]:<6}{finding.subject:<9} {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<16}→ {finding.remedy}")
    errors, warnings = (
        sum(finding.level is level for finding in findings) for level in (FindingLevel.ERROR, FindingLevel.WARNING)
    )
    lines.append(f"{_count(errors, 'error')}, {_count(warnings, 'warning')}")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
