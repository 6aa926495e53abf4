"""The price of access: samples that a daemon accepts in a CPU second with and without a token.

Three senders take turns in one run, so that the noise of the machine falls on all of them: one without a token at an
open daemon, and at a daemon with a tokens file one whose token holds for all servers, and one whose token has three
globs. Not measured: TLS, other agents' protocols, thousands of globs.
"""

import asyncio
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import aiohttp

from benchmarks.harness import DaemonProcess, describe_machine, print_table, running_daemon, write_result
from benchmarks.ingest import FORMS, SERVERS, Form, make_frames
from streamd.core.access.records import TokenRecord, encode_tokens_file, format_token, hash_token
from streamd.core.access.scopes import Scope

ROUNDS = 14
"""Turns of each sender; the first is to warm up."""

ROWS_A_ROUND = 20
"""In all fewer than the rows of a window, so that nothing is forecast."""

GLOBS = {"token for all servers": ("*",), "token with three globs": ("web-*", "db-[0-9]*", "server-*")}
WITHOUT = "without a token"


def make_record(name: str, number: int, globs: tuple[str, ...]) -> tuple[str, TokenRecord]:
    """Return a token that may send samples of these servers and read the status, and its record."""
    identifier = f"{number:012x}"
    token = format_token(identifier, f"{number:064x}")
    scopes = {Scope.INGEST: globs, Scope.READ: ("*",)}
    record = TokenRecord(name=name.replace(" ", "-"), id=identifier, sha256=hash_token(token).hex(), scopes=scopes)
    return token, record


class Sender:
    """One sender with its daemon; it sends the next rows of the same servers in each turn."""

    def __init__(self, daemon: DaemonProcess, headers: Mapping[str, str], form: Form, frames: list[bytes]) -> None:
        self._daemon = daemon
        self._headers = headers
        self._form = form
        self._frames = frames
        self._frames_a_round = len(frames) // ROUNDS
        self._round = 0

    async def send_round(self) -> float:
        """Send the rows of one turn, and return the CPU microseconds that the daemon took for each sample."""
        first = self._round * self._frames_a_round
        frames = self._frames[first : first + self._frames_a_round]
        self._round += 1
        async with aiohttp.ClientSession(headers=self._headers) as session:
            before = (await self._daemon.fetch_status(session))["samples"]["accepted"]
            samples = len(frames) * self._form.samples_a_frame
            cpu = read_cpu_seconds_exactly(self._daemon.process.pid)
            async with session.ws_connect(f"{self._daemon.url}/v1/ingest?ack=none") as socket:
                for frame in frames:
                    await socket.send_frame(frame, aiohttp.WSMsgType.TEXT)
                while (await self._daemon.fetch_status(session))["samples"]["accepted"] < before + samples:
                    await asyncio.sleep(0.02)
            return (read_cpu_seconds_exactly(self._daemon.process.pid) - cpu) / samples * 1e6


def read_cpu_seconds_exactly(pid: int) -> float:
    """Return the CPU seconds of the threads of a process so far, as the scheduler counts them."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


async def measure_form(form: Form) -> dict[str, float]:
    """Return the median CPU microseconds of a sample for each sender."""
    tokens = {name: make_record(name, number, globs) for number, (name, globs) in enumerate(GLOBS.items(), 1)}
    settings = {"max_servers": SERVERS, "min_context_rows": 288, "lanes": 1}
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        file = Path(folder) / "tokens.json"
        file.write_bytes(encode_tokens_file([record for _, record in tokens.values()]))
        file.chmod(0o600)
        async with (
            running_daemon(**settings) as is_open,
            running_daemon(**settings, tokens_file=file) as first,
            running_daemon(**settings, tokens_file=file) as second,
        ):
            frames = make_frames(form, ROUNDS * ROWS_A_ROUND)
            senders = {WITHOUT: Sender(is_open, {}, form, frames)}
            for daemon, (name, (token, _)) in zip((first, second), tokens.items(), strict=True):
                senders[name] = Sender(daemon, {"Authorization": f"Bearer {token}"}, form, frames)
            rounds: dict[str, list[float]] = {name: [] for name in senders}
            for number in range(ROUNDS):
                names = list(senders)
                for name in names[number % 3 :] + names[: number % 3]:
                    rounds[name].append(await senders[name].send_round())
    return {name: round(median(values[1:]), 3) for name, values in rounds.items()}


async def measure() -> dict[str, dict[str, float]]:
    """Return the CPU microseconds of a sample by form and sender."""
    return {form.name: await measure_form(form) for form in (FORMS[0], FORMS[2])}


def main() -> None:
    """Measure, print a table and write the result."""
    figures = asyncio.run(measure())
    rows = [
        (form, *(f"{each[name]:.2f} ({each[name] / each[WITHOUT] - 1:+.1%})" for name in each))
        for form, each in figures.items()
    ]
    print_table("CPU microseconds a sample", ["form", *next(iter(figures.values()))], rows)
    print(write_result("access", {"machine": describe_machine(), "cpu_us_a_sample": figures}))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
