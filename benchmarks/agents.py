"""Series points and server-rows that the daemon takes in a CPU second by each path, beside two floors over such bodies.

The floors, before and after each daemon in the same run: the decode-only floor (`Form.decode_floor`: the official
library parses, and every label and sample is read; what that is for each form is said there), and streamd's own
decoder into a sink that only counts. Beside them an aiohttp handler on uvloop that reads the same bodies and answers
204: HTTP alone. The daemon is a process of its own, and its CPU seconds are those of /proc, with HTTP, mapping, the
point log and the rows; `kernel` is the part of them in system calls, most of it for sockets. 100 series a server, all
known before measuring; one scrape a minute at the model's step of 300 s, so each row is made of 500 points.

Not measured: TLS, a network, gzip, series that are new, forecasts (every window stays too short to be forecast), disk
write-back, glances and PCP. The client posts over one connection that is kept alive, and waits for each answer. It runs
beside the daemon: on a machine with one core, or one that others use, both are slower than they would be alone.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

if __name__ == "__main__":
    # As a script, Python puts this folder on the path; the benchmarks are imported from its parent.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.agent_bodies import FORMS, SCRAPE_SECONDS, SERIES, Form, check_forms
from benchmarks.harness import (
    CLOCK_TICKS,
    ROOT,
    DaemonProcess,
    describe_machine,
    find_free_port,
    print_table,
    read_cpu_seconds,
    running_daemon,
)
from benchmarks.ingest import FEATURES, STEP_SECONDS
from streamd.core.errors import StreamdError
from streamd.core.mapping.mapping import Ignored, RuleMapping
from streamd.core.mapping.series import SourceSeries
from streamd.rule_sets import list_rule_sets, load_rule_set

SERVERS = 100
SCRAPES_A_STEP = STEP_SECONDS // SCRAPE_SECONDS
WARM_STEPS = 2
SAMPLE_POINTS = 40_000
"""Of the bodies that the floors decode again and again."""

FLOOR_SECONDS = 1.0
DAEMON_SECONDS = 3.0
"""CPU seconds of one measurement."""


class CountingSink:
    """A sink that counts points and finds the entry of every series that came before.

    It wants the metrics that the ready-made rules name, as the daemon does.
    """

    def __init__(self, mapping: RuleMapping) -> None:
        self.points = 0
        self.mapped: set[int] = set()
        """The entries that a rule uses."""
        self._mapping = mapping
        self._entries: dict[Hashable, int] = {}
        self.find = self._entries.get

    def wants(self, name: str) -> bool:
        """Whether a rule may want series of this metric."""
        return self._mapping.names_metric(name)

    def ignore(self, count: int = 1) -> None:
        """Count points that no rule wants."""
        self.points += count

    def bind(self, key: Hashable, series: SourceSeries) -> int:
        """Remember a series."""
        entry = self._entries[key] = len(self._entries)
        if not isinstance(self._mapping.match(series), Ignored):
            self.mapped.add(entry)
        return entry

    def add(self, entry: int, time: float, value: float) -> None:
        """Count a point."""
        self.points += 1

    def add_point(self, series: SourceSeries, time: float, value: float) -> None:
        """Count a point."""
        self.points += 1

    def reject(self, error: StreamdError, count: int = 1, entry: int | None = None) -> None:
        """Refuse to measure a body with bad points."""
        raise error

    def skip(self, reason: str, count: int = 1) -> None:
        """Refuse to measure a body with points that are no measurement."""
        raise ValueError(f"{count} points are skipped: {reason}")


@dataclass(frozen=True, kw_only=True)
class FormResult:
    """The rates of one form: points and rows in a CPU second."""

    mapped: float
    """The share of the series that a rule uses."""
    floor: float
    """Points by the decode-only floor."""
    decoder: float
    """Points by streamd's decoder alone."""
    daemon: float
    """Points by the whole daemon."""
    handler: float
    """Points in the bodies that an HTTP handler reads and does nothing with."""
    system: float
    """The share of the daemon's CPU seconds that the kernel took."""
    rows: float
    """Server-rows by the whole daemon, amendments included."""
    bodies: float
    """Bodies by the whole daemon."""

    def describe(self) -> dict[str, float]:
        """Return the rates and their ratios, for JSON."""
        return {
            "mapped_share": round(self.mapped, 3),
            "floor_points": round(self.floor),
            "decoder_points": round(self.decoder),
            "daemon_points": round(self.daemon),
            "daemon_system_share": round(self.system, 3),
            "handler_points": round(self.handler),
            "daemon_server_rows": round(self.rows, 1),
            "daemon_bodies": round(self.bodies, 1),
            "daemon_to_floor": round(self.daemon / self.floor, 3),
            "decoder_to_floor": round(self.decoder / self.floor, 3),
        }


def make_bodies(form: Form, servers: int, scrape: int) -> list[bytes]:
    """Make the bodies of all servers' scrape of this number."""
    size = form.servers_a_body
    return [form.make_body(range(at, min(at + size, servers)), scrape) for at in range(0, servers, size)]


def measure_rate(work: Callable[[bytes], int], bodies: Sequence[bytes], seconds: float = FLOOR_SECONDS) -> float:
    """Measure the points a CPU second that a function takes from bodies."""
    began, count = time.process_time(), 0
    while time.process_time() - began < seconds:
        for body in bodies:
            count += work(body)
    return count / (time.process_time() - began)


def make_counting_decoder(form: Form) -> tuple[Callable[[bytes], int], CountingSink]:
    """Return streamd's decoder into a sink that counts."""
    sink = CountingSink(RuleMapping([load_rule_set(name) for name in list_rule_sets()], (*FEATURES, "status")))

    def decode(body: bytes) -> int:
        before = sink.points
        for _ in form.decode(body, sink):
            pass
        return sink.points - before

    return decode, sink


async def post_bodies(session: aiohttp.ClientSession, url: str, form: Form, bodies: Sequence[bytes]) -> None:
    """Post bodies one after the other; raises `ValueError` if one is not taken."""
    for body in bodies:
        async with session.post(url, data=body, headers=form.headers) as answer:
            if answer.status not in (200, 204):
                raise ValueError(f"{form.name}: {answer.status} {(await answer.text())[:500]}")
            await answer.read()


async def _read_counts(daemon: DaemonProcess, session: aiohttp.ClientSession, form: Form) -> tuple[int, int]:
    """Return the points and the rows that the daemon took; raises `ValueError` if it rejected any."""
    agents = (await daemon.fetch_status(session))["agents"]
    counts = agents["protocols"][form.protocol]
    if counts["rejected"] or counts["refused"] or counts["skipped"]:
        raise ValueError(f"{form.name}: not all points were taken: {counts}")
    return counts["taken"] + sum(counts["ignored"].values()), agents["rows"]


def read_system_seconds(pid: int) -> float:
    """Return the seconds that a process spent in the kernel so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[12]) / CLOCK_TICKS


async def measure_handler(form: Form, bodies: Sequence[bytes]) -> float:
    """Measure the points a CPU second in the bodies that an HTTP handler reads and answers with 204."""
    port = find_free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.counter", str(port), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        async with aiohttp.ClientSession() as session:
            url, posted = f"http://127.0.0.1:{port}{form.path}", 0
            await post_bodies(session, url, form, bodies[:20])
            cpu = read_cpu_seconds(process.pid)
            while (spent := read_cpu_seconds(process.pid) - cpu) < FLOOR_SECONDS / 2:
                await post_bodies(session, url, form, bodies)
                posted += len(bodies)
        return posted * form.servers_a_body * SERIES / spent
    finally:
        process.terminate()
        await process.wait()


async def measure_daemon(form: Form, servers: int, seconds: float) -> dict[str, float]:
    """Measure the points, server-rows and bodies a CPU second of the daemon, whose series are all known."""
    settings = {"max_servers": servers, "min_context_rows": 288, "lanes": 1}
    async with running_daemon(**settings) as daemon, aiohttp.ClientSession() as session:
        url, scrape, bodies = f"{daemon.url}{form.path}", WARM_STEPS * SCRAPES_A_STEP, 0
        for each in range(scrape):
            await post_bodies(session, url, form, make_bodies(form, servers, each))
        points, rows = await _read_counts(daemon, session, form)
        cpu, system = daemon.read_cpu_seconds(), read_system_seconds(daemon.process.pid)
        while (spent := daemon.read_cpu_seconds() - cpu) < seconds:
            for _ in range(SCRAPES_A_STEP):
                made = make_bodies(form, servers, scrape)
                await post_bodies(session, url, form, made)
                scrape += 1
                bodies += len(made)
        system = read_system_seconds(daemon.process.pid) - system
        points_after, rows_after = await _read_counts(daemon, session, form)
    return {
        "daemon": (points_after - points) / spent,
        "system": system / spent,
        "rows": (rows_after - rows) / spent,
        "bodies": bodies / spent,
    }


async def measure_form(form: Form, servers: int = SERVERS, seconds: float = DAEMON_SECONDS) -> FormResult:
    """Measure one form: the floors before and after the daemon, so that another load of the machine meets both."""
    bodies = [body for scrape in range(SAMPLE_POINTS // 10_000) for body in make_bodies(form, 100, scrape)]
    decode, sink = make_counting_decoder(form)
    decode(bodies[0])
    floors, decoders = [], []
    for turn in range(2):
        floors.append(measure_rate(form.decode_floor, bodies))
        decoders.append(measure_rate(decode, bodies))
        if turn == 0:
            daemon = await measure_daemon(form, servers, seconds)
            handler = await measure_handler(form, bodies)
    return FormResult(
        mapped=len(sink.mapped) / (100 * SERIES),
        floor=sum(floors) / 2,
        decoder=sum(decoders) / 2,
        handler=handler,
        **daemon,
    )


async def measure(
    names: Sequence[str] = (), servers: int = SERVERS, seconds: float = DAEMON_SECONDS
) -> dict[str, dict[str, float]]:
    """Measure the forms whose name contains one of `names`, all of them if there are no names."""
    check_forms()
    figures = {}
    for form in FORMS:
        if not names or any(name in form.name for name in names):
            figures[form.name] = (await measure_form(form, servers, seconds)).describe()
    return figures


def print_agents(figures: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    columns = ("path", "mapped", "daemon", "decoder", "floor", "daemon/floor", "decoder/floor")
    head = (*columns, "HTTP alone", "kernel", "server-rows", "bodies")
    rows = [
        (
            name,
            f"{each['mapped_share']:.0%}",
            *(f"{each[key]:,}" for key in ("daemon_points", "decoder_points", "floor_points")),
            f"{each['daemon_to_floor']:.2f}",
            f"{each['decoder_to_floor']:.2f}",
            f"{each['handler_points']:,}",
            f"{each['daemon_system_share']:.0%}",
            f"{each['daemon_server_rows']:,.0f}",
            f"{each['daemon_bodies']:,.0f}",
        )
        for name, each in figures.items()
    ]
    print_table("Series points of agents, server-rows and bodies a CPU second (100 series a server)", head, rows)
    print("  Goal: daemon/floor of at least 0.5 for remote write and OTLP.")
    print("  Not measured: TLS, a network, gzip, new series, forecasts, glances, PCP.")


def main() -> int:
    """Measure some forms, or all, in a shorter or longer run than that of `make bench`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", action="append", default=[], help="a part of the names of the forms to measure")
    parser.add_argument("--servers", type=int, default=SERVERS, help="number of servers [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=DAEMON_SECONDS, help="CPU seconds of each daemon")
    args = parser.parse_args()
    figures = asyncio.run(measure(args.form, args.servers, args.seconds))
    print_agents(figures)
    print(json.dumps({"machine": describe_machine(), "figures": figures}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
