"""What the repository's commands share: where the versions are, what plans must fit, and how an answer is said."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that --help loads nothing
    from streamd.repository.plans import Machine
    from streamd.repository.record import Record
    from streamd.repository.versions import EngineRepository

REFUSED = 1

SERVING_ORDER = """\
Which version serves: the one pinned by --engine or STREAMD_ENGINE; else the promoted one, or where it cannot serve the
one promoted before it; else the one whose config.json says default; else the newest. A daemon that runs goes on with
what it has loaded: restart it to serve another.
"""

_DEFAULT_ENGINES = Path("engines")
"""Known by identity: only where no folder was given may a version's own folder say which one is meant."""

MachineProbe = Callable[[], "Machine | None"]
"""Says what plans must fit here; None on a machine without a usable GPU or TensorRT."""


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that every command has."""
    parser.add_argument(
        "--engines",
        type=Path,
        default=Path(os.environ["STREAMD_ENGINES"]) if os.environ.get("STREAMD_ENGINES") else _DEFAULT_ENGINES,
        metavar="DIR",
        help="folder of engine versions (STREAMD_ENGINES, or engines)",
    )
    parser.add_argument("--json", action="store_true", help="say it as JSON")


def add_record_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the record of promotions asks for."""
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for the record")
    parser.add_argument("--who", default=None, metavar="NAME", help="for the record (you, at this host)")


def add_version_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the version that is meant."""
    parser.add_argument(
        "version", metavar="VERSION", help="its name, or the path of its folder: without --engines in any folder"
    )


def open_repository(args: argparse.Namespace) -> "EngineRepository":
    """The repository that is meant."""
    from streamd.repository.versions import EngineRepository

    return EngineRepository(locate_version(args)[0] if "version" in args else args.engines)


def find_version_name(args: argparse.Namespace) -> str:
    """The version's name, also where its folder was given, as `streamd engine build` prints it."""
    return locate_version(args)[1]


def locate_version(args: argparse.Namespace) -> tuple[Path, str]:
    """The folder of versions and the version's name in it, also where the version's own folder was given.

    Raises `RepositoryError` where that lies in another folder than the one given by flag or variable: a daemon that
    serves from there would not see its promotion.
    """
    from streamd.core.errors import RepositoryError

    engines, path = Path(args.engines), Path(args.version)
    is_name = str(args.version) == path.name and (engines / path).is_dir()
    if is_name or not path.is_dir():
        return engines, path.name if path.parent.resolve() == engines.resolve() else str(args.version)
    folder = path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name
    if folder.parent == engines.resolve():
        return engines, folder.name
    if args.engines is not _DEFAULT_ENGINES:
        raise RepositoryError(
            f"{path}: lies in {folder.parent}, and --engines or STREAMD_ENGINES says {engines}: "
            "name a version of that folder, or leave them out"
        )
    return folder.parent, folder.name


def find_machine(args: argparse.Namespace) -> "Machine | None":
    """What plans must fit, asked of `args.probe` where whoever runs the command set one; None: nothing is known."""
    probe: MachineProbe | None = getattr(args, "probe", None)
    return probe() if probe is not None else None


def print_answer(args: argparse.Namespace, said: Any, text: str) -> None:
    """Write an answer to standard output, as JSON or as text."""
    import msgspec

    if args.json:
        text = msgspec.json.format(msgspec.json.encode(said), indent=2).decode()
    sys.stdout.write(f"{text}\n")


def print_promotion(args: argparse.Namespace, record: "Record", done: str) -> int:
    """Say what a promotion or a rollback did, and what serves now; returns the exit status."""
    import msgspec

    choice = open_repository(args).choice()
    passed_over = record.history[-1].passed_over if record.history else ()
    lines = [f"{done}; {choice.version.name} serves from the daemon's next start or reload ({choice.rule})"]
    lines += [f"passed over, since it cannot serve: {name}" for name in passed_over]
    lines += [f"passed over: {reason}" for reason in choice.passed_over]
    said = {**msgspec.to_builtins(record), "previous": record.previous, "serves": choice.version.name}
    print_answer(args, said, "\n".join(lines))
    return 0


def name_author(args: argparse.Namespace) -> str:
    """Who is to be recorded: as given, or user and host."""
    import getpass
    import socket

    if args.who:
        return str(args.who)
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no entry in the user database, as in many containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
