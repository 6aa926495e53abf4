"""Judge alert rules on recorded servers, and explain what the rules of a file mean.

The command `streamd alerts`. No daemon is needed.
"""

import argparse
import json
import sys
from pathlib import Path

from streamd.core.errors import ConfigError, RepositoryError, StreamdError
from streamd.core.names import AUTO, BACKEND_CHOICES
from streamd.tools.fleets.arguments import add_map_argument

_DONE, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130

_BACKTEST_HELP = """\
Each server is forecast from each origin as the daemon would have done, and the rules judge the forecasts with the
daemon's own code. Each rule is compared with simple ways to alert, judged alike: the last value, and a straight line
through the last hour and through the last four (PromQL's predict_linear). docs/alerts.md says how alerts are judged.

example: streamd alerts backtest --config config.toml --fleet last-month.parquet --from 2026-11-01

exit status: 0 done; 1 no rule was judged, or the version does not run; 2 wrong usage or settings; 130 interrupted"""

_CHECK_HELP = """\
example: streamd alerts check --config config.toml

exit status: 0 the rules are right; 1 there is no rule; 2 a rule, the usage or the settings are wrong"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands and their options."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    backtest = _add_command(commands, "backtest", "judge the rules on a recorded fleet", _BACKTEST_HELP)
    _add_fleet(backtest)
    _add_judgement(backtest)
    backtest.set_defaults(run_alerts=_run_backtest)
    check = _add_command(commands, "check", "check the rules, and say in plain words what each means", _CHECK_HELP)
    check.set_defaults(run_alerts=_run_check)


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, epilog: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=text,
        description=f"{text[:1].upper()}{text[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings with [alerts.rules]")
    command.add_argument("--engines", type=Path, metavar="DIR", help="folder of versions [default: of the settings]")
    command.add_argument("--engine", metavar="VERSION", help="version that forecasts [default: the one that serves]")
    command.add_argument(
        "--rule", action="append", default=[], metavar="NAME", help="rule to use; may be repeated [default: all]"
    )
    command.add_argument("--json", action="store_true", help="print JSON [default: text]")
    command.set_defaults(alerts_parser=command)
    return command


def _add_fleet(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fleet")
    group.add_argument(
        "--fleet",
        type=Path,
        required=True,
        action="append",
        metavar="FILE",
        help="recorded servers as .csv, .csv.gz or .parquet, as `streamd replay` takes them; may be repeated",
    )
    add_map_argument(group)
    group.add_argument(
        "--from",
        dest="begin",
        metavar="TIME",
        help="first origin, RFC 3339 or epoch seconds; earlier rows are history [default: a whole context length"
        " after the first row]",
    )
    group.add_argument("--to", dest="end", metavar="TIME", help="time before which the last origin is [default: all]")
    group.add_argument("--every", type=_parse_count, default=1, metavar="N", help="steps between origins [default: 1]")
    group.add_argument(
        "--backend", choices=BACKEND_CHOICES, default=AUTO, help="backend that runs the version [default: auto]"
    )
    group.add_argument("--threads", type=_parse_count, metavar="N", help="threads on the CPU [default: all cores]")
    group.add_argument("--quiet", action="store_true", help="no progress on standard error [default: progress]")


def _add_judgement(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("judgement")
    group.add_argument(
        "--tolerance",
        default="30m",
        metavar="TIME",
        help="time by which an incident may begin later than a rule's `within` [default: %(default)s]",
    )
    group.add_argument(
        "--gap",
        default="1h",
        metavar="TIME",
        help="time on the safe side after which an incident is over [default: %(default)s]",
    )
    group.add_argument(
        "--shortest",
        default="15m",
        metavar="TIME",
        help="time below which an incident need not be caught [default: %(default)s]",
    )
    group.add_argument(
        "--by", metavar="LABEL", help="one table for all rules with the same value of this label [default: by rule]"
    )


def main(args: argparse.Namespace) -> int:
    """Run a subcommand and return the exit status."""
    prog = args.alerts_parser.prog
    try:
        status: int = args.run_alerts(args)
    except StreamdError as exc:
        print(f"{prog}: {exc}", file=sys.stderr)
        return _USAGE if isinstance(exc, ConfigError | RepositoryError) else _FAILED
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return status


def _run_backtest(args: argparse.Namespace) -> int:
    from streamd.tools.alerts.backtest import AlertBacktest
    from streamd.tools.alerts.backtest_setup import (
        describe_backtest,
        make_backtest_plan,
        open_network,
        read_recorded_fleet,
        require_windows,
    )
    from streamd.tools.alerts.forecaster import FleetForecaster
    from streamd.tools.alerts.report import format_report, group_scores
    from streamd.tools.alerts.rule_file import read_rule_file
    from streamd.tools.engine.progress import Progress

    settings = read_rule_file(args.config)
    version = settings.open_version(args.engines, args.engine)
    rules = settings.bind(version.contract, args.rule)
    if not rules:
        raise ConfigError(f"{args.config}: has no rules, expected a table [alerts.rules.NAME]")
    fleet = read_recorded_fleet(args.fleet, args.map, version.contract)
    plan = make_backtest_plan(args, fleet, version.contract, settings)
    progress = Progress(quiet=args.quiet)
    with open_network(version, args.backend, args.threads) as engine:
        forecaster = FleetForecaster(fleet, version.contract, lambda inputs: engine(inputs)["predictions"])
        backtest = AlertBacktest(forecaster, rules, plan)
        require_windows(backtest.windows, plan, args.config)
        with progress.start_job("forecasts", backtest.windows) as job:
            scores = backtest.run(job.advance_to)
    judged = [each for each in scores if each.servers]
    for each in scores:
        if not each.servers:
            progress.print_line(f"rule {each.rule.name}: no server with values of {each.rule.target}; left out")
    groups = group_scores(judged, args.by)
    about = describe_backtest(version, fleet, plan, backtest.windows)
    if args.json:
        print(json.dumps({**about, "groups": [group.to_dict() for group in groups]}, indent=1))
    else:
        print("\n".join(format_report(groups, about)))
    return _DONE if judged else _FAILED


def _run_check(args: argparse.Namespace) -> int:
    from streamd.tools.alerts.explain import explain_rule
    from streamd.tools.alerts.rule_file import read_rule_file

    settings = read_rule_file(args.config)
    version = settings.open_version(args.engines, args.engine)
    rules = settings.bind(version.contract, args.rule)
    explained = {rule.name: explain_rule(rule, version.contract) for rule in rules}
    if args.json:
        print(json.dumps({"engine": version.name, "rules": explained}, indent=1))
    else:
        print(f"{args.config}: {len(rules)} {'rule' if len(rules) == 1 else 'rules'} for {version.name}")
        for first, *others in explained.values():
            print("\n".join(["", first, *(f"  {line}" for line in others)]))
    return _DONE if rules else _FAILED


def _parse_count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number
