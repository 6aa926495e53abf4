"""Shared parts of the repository's commands: finding the version that is meant, and printing an answer.

Imports nothing heavy at the top, so that `--help` is quick.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that --help loads nothing heavy
    from streamd.repository.plans import Machine
    from streamd.repository.record import PromotionRecord
    from streamd.repository.versions import EngineRepository

REFUSED = 1
"""Exit status of a command that found something refused."""

SERVING_ORDER = """\
The version that serves is the first of these: the one pinned by --engine or STREAMD_ENGINE; the promoted one, or, if
it cannot serve, the one promoted before it; the one whose config.json says default; the newest. A running daemon goes
on with the version that it has loaded until `systemctl reload streamd` or its next start.
"""

_DEFAULT_ENGINES = Path("engines")
"""Compared by identity: a version's own folder may name the repository only if no folder was given."""

MachineProbe = Callable[[], "Machine | None"]
"""Returns the machine that plans must fit; None on a machine without a usable GPU or TensorRT."""


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that every command has."""
    parser.add_argument(
        "--engines",
        type=Path,
        default=Path(os.environ["STREAMD_ENGINES"]) if os.environ.get("STREAMD_ENGINES") else _DEFAULT_ENGINES,
        metavar="DIR",
        help="folder of engine versions [default: STREAMD_ENGINES, or engines]",
    )
    parser.add_argument("--json", action="store_true", help="output as JSON")


def add_record_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the author and the reason, which the record of promotions keeps."""
    parser.add_argument("--why", default="", metavar="TEXT", help="reason, for the record [default: empty]")
    parser.add_argument("--who", metavar="NAME", help="author, for the record [default: your user at this host]")


def add_version_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the version that a command is for."""
    parser.add_argument(
        "version",
        metavar="VERSION",
        help="name of the version, or path of its folder (any folder, if --engines is not given)",
    )


def open_repository(args: argparse.Namespace) -> "EngineRepository":
    """Return the repository that the arguments name."""
    from streamd.repository.versions import EngineRepository

    return EngineRepository(locate_version(args)[0] if "version" in args else args.engines)


def find_version_name(args: argparse.Namespace) -> str:
    """Return the version's name, also if its folder was given, as `streamd engine build` prints it."""
    return locate_version(args)[1]


def locate_version(args: argparse.Namespace) -> tuple[Path, str]:
    """Return the folder of versions and the version's name in it, also if the version's own folder was given.

    Raises `RepositoryError` if that lies in another folder than the one given by flag or variable: a daemon that
    serves from there would not see its promotion.
    """
    from streamd.core.errors import RepositoryError

    engines, path = Path(args.engines), Path(args.version)
    # 1. A name in the folder of versions; or nothing that exists, which the repository then reports.
    is_name = str(args.version) == path.name and (engines / path).is_dir()
    if is_name or not path.is_dir():
        return engines, path.name if path.parent.resolve() == engines.resolve() else str(args.version)
    # 2. A path into the folder of versions. `.` and `..` have no name of their own until they are resolved.
    folder = path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name
    if folder.parent == engines.resolve():
        return engines, folder.name
    # 3. A path into another folder, which counts only if no folder of versions was given.
    if args.engines is not _DEFAULT_ENGINES:
        raise RepositoryError(
            f"{path}: lies in {folder.parent}, and --engines or STREAMD_ENGINES says {engines}: "
            "name a version of that folder, or leave them out"
        )
    return folder.parent, folder.name


def find_machine(args: argparse.Namespace) -> "Machine | None":
    """Return the machine that plans must fit, from `args.probe`; None if there is no probe or no usable GPU."""
    probe: MachineProbe | None = getattr(args, "probe", None)
    return probe() if probe is not None else None


def print_answer(args: argparse.Namespace, answer: Any, text: str) -> None:
    """Write an answer to standard output: with `--json` the value, else the text."""
    import msgspec

    if args.json:
        text = msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()
    sys.stdout.write(f"{text}\n")


def print_promotion(args: argparse.Namespace, record: "PromotionRecord", done: str) -> int:
    """Print the effect of a promotion or a rollback and the version that serves now; return the exit status."""
    import msgspec

    choice = open_repository(args).choose_with_reasons()
    passed_over = record.history[-1].passed_over if record.history else ()
    lines = [f"{done}; {choice.version.name} serves from the daemon's next start or reload ({choice.rule})"]
    lines += [f"passed over, since it cannot serve: {name}" for name in passed_over]
    lines += [f"passed over: {reason}" for reason in choice.skip_reasons]
    answer = {**msgspec.to_builtins(record), "previous": record.previous, "serves": choice.version.name}
    print_answer(args, answer, "\n".join(lines))
    return 0


def name_author(args: argparse.Namespace) -> str:
    """Return the author to record: the given name, or user and host."""
    import getpass
    import socket

    if args.who:
        return str(args.who)
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no entry in the user database, as in many containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
