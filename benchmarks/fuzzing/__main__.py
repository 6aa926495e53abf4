"""Fuzzes each decoder, and the whole surface of a daemon, each in a process of its own, and writes a log of each:
`python -m benchmarks.fuzzing --minutes-each 3 --jobs 16 --out FOLDER`.

With atheris (it need not be installed) new bodies are found by the coverage of streamd's own code, else by mutations
alone, of the captures of real agents and of what had a new outcome. The same seed makes the same bodies without
atheris; how many of them, the machine says.

A log has a JSON object a line: `start`, `progress`, `finding` with the body in base64, and `end` with the outcomes.
`--replay LOG` runs the decoder of a log over the body of its finding. `summary.json` has the summary of each without
bodies.

The target `surface` sends damaged requests to every route and damaged frames to every WebSocket of a real daemon; each
of its processes is a seed of its own: `--surfaces 8` runs eight. Its log keeps the last inputs before a finding.

Not covered: TLS, and the rules' own texts.
"""

import argparse
import base64
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.harness import ROOT, print_table
from streamd.server.memory import configure_malloc

INSTRUMENTED = ["streamd.protocols", "streamd.http.compression", "streamd.core.aggregation"]
INSTRUMENTED += ["streamd.runtime.aggregation", "streamd.http.wire", "streamd.http.subscriptions"]
MAX_COVERED_BODY_BYTES = 65_536
MAX_ADDRESS_BYTES = 16 * 2**30
"""Of one process; a decoder that wants more gets a `MemoryError`, which is a finding."""

FOUND = 3
"""The exit status of a run with a finding."""

_NAMES = (
    *("remote_write_1", "remote_write_2", "codings", "otlp_protobuf", "otlp_json", "line_protocol", "line_protocol_ns"),
    *("telegraf", "glances", "collectd", "collectd_memory", "netdata", "put", "pcp", "pcp_document", "tsdb_dump"),
    *(
        "collector",
        "samples_json",
        "samples_msgpack",
        "subscriptions",
        "tensors",
        "tokens_file",
        "settings",
        "state_files",
    ),
)
SURFACE = "surface"
"""The target that is a whole daemon; `surface-2` and so on are the same with other seeds."""


def main() -> int:
    """Run the chosen decoders; returns 0 if there is no finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", action="append", metavar="NAME", help="may be repeated [default: all]")
    parser.add_argument("--surfaces", type=int, default=1, help="daemons to fuzz as a whole [default: %(default)s]")
    parser.add_argument(
        "--minutes-each", "--minutes", dest="minutes", type=float, default=10.0, help="[default: %(default)s]"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="decoders at the same time [default: %(default)s]")
    parser.add_argument(
        "--out", "--log", dest="log", type=Path, default=Path("fuzzing-logs"), help="folder [default: %(default)s]"
    )
    parser.add_argument("--engine", choices=("auto", "atheris", "mutations"), default="auto")
    parser.add_argument("--replay", type=Path, help="log whose finding is run again")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.decoder = args.decoder or [*_NAMES, *list_surfaces(args.surfaces)]
    if unknown := [name for name in args.decoder if name not in _NAMES and not name.startswith(SURFACE)]:
        parser.error(f"no such decoders: {unknown}; expected some of {[*_NAMES, SURFACE]}")
    if args.replay:
        return replay(args.replay)
    if args.engine == "auto":
        args.engine = "atheris" if importlib.util.find_spec("atheris") else "mutations"
    if args.child:
        return run_child(args)
    return run_children(args)


# ---------------------------------------------------------------- all decoders
def run_children(args: argparse.Namespace) -> int:
    """Run a process for each decoder, a few at the same time, and print a table."""
    waiting, running = list(args.decoder), list[tuple[str, "subprocess.Popen[bytes]"]]()
    args.log.mkdir(parents=True, exist_ok=True)
    failed = False
    while waiting or running:
        while waiting and len(running) < args.jobs:
            name = waiting.pop(0)
            running.append((name, _start_child(name, args)))
        time.sleep(0.2)
        for name, process in [each for each in running if each[1].poll() is not None]:
            running.remove((name, process))
            failed |= process.returncode != 0
            print(f"{name}: {_describe_end(args.log, name, process.returncode)}", flush=True)
    _print_summaries(args.log, args.decoder)
    _write_summaries(args.log, args.decoder)
    return FOUND if failed else 0


def _start_child(name: str, args: argparse.Namespace) -> "subprocess.Popen[bytes]":
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzzing",
        "--child",
        "--decoder",
        name,
        "--log",
        str(args.log.resolve()),
    ]
    command += ["--minutes", str(args.minutes), "--seed", str(args.seed), "--engine", args.engine]
    with (args.log / f"{name}.stderr").open("wb") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)


def read_log(path: Path) -> dict[str, dict[str, Any]]:
    """Return the last entry of each event of a log."""
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return {entry["event"]: entry for entry in entries}


def _describe_end(folder: Path, name: str, status: int) -> str:
    log = read_log(folder / f"{name}.jsonl")
    if "finding" in log:
        return f"FINDING: {log['finding']['message'][:300]}"
    return f"{log['end']['inputs']:,} inputs, no finding" if status == 0 and "end" in log else f"ENDED WITH {status}"


def list_surfaces(count: int) -> list[str]:
    """Return the names of so many surface targets."""
    return [SURFACE if place == 1 else f"{SURFACE}-{place}" for place in range(1, count + 1)]


def _write_summaries(folder: Path, names: list[str]) -> None:
    """Write the last entry of each log without the bodies, which may be large."""
    found = {}
    for name in names:
        end = read_log(folder / f"{name}.jsonl").get("end", {"has_finding": True, "ended_early": True})
        kept = {key: value for key, value in end.items() if key not in ("event", "outcomes")}
        for key in ("peak", "slowest", "slowest_slice"):
            kept[key] = {name: value for name, value in end.get(key, {}).items() if name != "body"}
        found[name] = kept
    (folder / "summary.json").write_text(json.dumps(found, indent=1) + "\n", encoding="ascii")


def _print_summaries(folder: Path, names: list[str]) -> None:
    rows = []
    for name in names:
        end = read_log(folder / f"{name}.jsonl").get("end")
        if end is not None and name.startswith(SURFACE):
            print(f"{name}: {end['inputs']:,} requests, /healthz at most {end['slowest']}: {end['outcomes']}")
        elif end is not None:
            rows.append(
                (
                    name,
                    f"{end['inputs']:,}",
                    f"{end['compared']:,}",
                    f"{end['enclosed']:,}",
                    end["outcome_kinds"],
                    f"{end['peak']['bytes'] / 2**20:.0f}",
                    f"{end['slowest']['seconds'] * 1000:,.0f} ms of {end['slowest'].get('body_bytes', 0):,} B",
                    f"{end['slowest_slice']['seconds'] * 1000:,.0f} ms",
                    "yes" if end["has_finding"] else "no",
                )
            )
    head = ("decoder", "bodies", "compared", "enclosed", "outcomes", "peak MiB", "slowest", "longest slice", "finding")
    print_table("Fuzzing", head, rows)


# ---------------------------------------------------------------- one decoder
def run_child(args: argparse.Namespace) -> int:
    """Run one decoder in this process; it may not take all memory of the machine."""
    if args.decoder[0].startswith(SURFACE):
        return run_surface(args)
    configure_malloc()  # as the daemon does
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    if args.engine == "atheris":
        return run_atheris(args)
    session = _make_session(args)
    session.write_start("mutations")
    session.run_mutations()
    session.write_end()
    return FOUND if session.has_finding else 0


def run_surface(args: argparse.Namespace) -> int:
    """Run a daemon and its peers."""
    from benchmarks.fuzzing.session import open_log
    from benchmarks.fuzzing.surface import SurfaceSession

    name = args.decoder[0]
    seed = args.seed * 1_000 + int(name.partition("-")[2] or 1)
    session = SurfaceSession(seed, args.minutes, open_log(args.log, name))
    session.write_start()
    session.run()
    session.write_end()
    return FOUND if session.has_finding else 0


def _make_session(args: argparse.Namespace) -> Any:
    # Imported when atheris instruments imports, if it does.
    from benchmarks.fuzzing.session import FuzzSession, open_log

    name = args.decoder[0]
    return FuzzSession(_find_target(name), args.seed, args.minutes, open_log(args.log, name))


def _find_target(name: str) -> Any:
    from benchmarks.fuzzing.collector import COLLECTOR
    from benchmarks.fuzzing.own_targets import OWN_TARGETS
    from benchmarks.fuzzing.targets import TARGETS

    return next(target for target in (*TARGETS, COLLECTOR, *OWN_TARGETS) if target.name == name)


def run_atheris(args: argparse.Namespace) -> int:
    """Run one decoder with coverage; does not return: libFuzzer would end the process without the end of the log."""
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

    with atheris.instrument_imports(include=INSTRUMENTED):
        session = _make_session(args)
    session.write_start("atheris")

    def take(body: bytes) -> None:
        session.take_body(body)
        if session.is_over():
            session.write_end()
            os._exit(FOUND if session.has_finding else 0)

    def mutate(body: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.3:
            mutated: bytes = atheris.Mutate(body, max_size)
            return mutated
        from benchmarks.fuzzing.session import mutate_target_body

        corpus = [body, body, body, *random.sample(session.corpus, min(3, len(session.corpus)))]
        return mutate_target_body(session._target, corpus, random)[:max_size]

    seeds = args.log / f"{args.decoder[0]}-seeds"
    seeds.mkdir(exist_ok=True)
    for place, body in enumerate(session.corpus):
        (seeds / f"seed-{place:03d}").write_bytes(body)
    options = [f"-seed={args.seed}", f"-max_len={MAX_COVERED_BODY_BYTES}", "-rss_limit_mb=0", "-timeout=300"]
    atheris.Setup([sys.argv[0], *options, str(seeds)], take, custom_mutator=mutate)
    atheris.Fuzz()
    session.write_end()  # not reached, unless libFuzzer stops by itself
    return 0


def replay(log: Path) -> int:
    """Run the decoder of a log over the body of its finding."""
    from benchmarks.fuzzing.session import FuzzSession

    entry = read_log(log)["finding"]
    session = FuzzSession(_find_target(log.stem), 1, 1.0, sys.stdout)
    for _ in range(12):  # each check has its turn
        session.take_body(base64.b64decode(entry["body"]))
        if session.has_finding:
            return FOUND
    print("the finding did not happen again: it may need the bodies before it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
