"""Single-sample JSON frames that a daemon acknowledges in a second, by its number of workers.

    python -m benchmarks.single_samples --workers 1,2,4,8 --clients 6 --out FILE

Each of the client processes holds many connections with 8 frames in flight, written together, as fast as acks arrive.
It builds frames from pieces and counts acks in what it reads, without a WebSocket library, so that it takes a tenth of
the daemon's time. The busy shares say what gave out: a client near 1.0 measures itself, and with fewer idle cores than
processes all share them. Not measured: a network, TLS, forecasts (no window is long enough).
"""

import argparse
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.processes import list_children, read_part
from benchmarks.harness import CLOCK_TICKS, ROOT, describe_machine, find_free_port, print_table

FEATURES = (
    *("cpu_user", "cpu_sys", "cpu_iowait", "cpu_idle", "java_cpu", "mem_used", "swap_used", "disk_usage"),
    *("net_in", "net_out", "back_close_wait", "front_close_wait", "load_average", "uptime"),
)
IN_FLIGHT = 8
SERVERS_A_CONNECTION = 40
START = 1_700_000_100
STEP_SECONDS = 300
ACCEPTED = b'"accepted":1'
REJECTED = b'"rejected":1'
UPGRADE = (
    "GET /v1/ingest HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c3RyZWFtZC1tZWFzdXJlcw==\r\n\r\n"
)


def connect(port: int) -> socket.socket:
    """Connect to a daemon on this machine."""
    connected = socket.create_connection(("127.0.0.1", port))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


class Agent:
    """One connection: its servers in turn, one step after the other."""

    def __init__(self, port: int, name: str) -> None:
        self.socket = connect(port)
        self.acked = 0
        self._sent = 0
        self._rest = b""
        values = json.dumps({feature: 10.5 + place for place, feature in enumerate(FEATURES)}, separators=(",", ":"))
        self._heads = [
            f'{{"samples":[{{"server":"{name}-{server:02d}","time":'.encode() for server in range(SERVERS_A_CONNECTION)
        ]
        self._tail = f',"values":{values}}}]}}'.encode()
        self._upgrade()

    def send(self, count: int) -> None:
        """Send the next frames with one write."""
        self.socket.sendall(b"".join(self._make_frame(self._sent + place) for place in range(count)))
        self._sent += count

    def read(self) -> int:
        """Read acks; returns how many came. Raises `RuntimeError` if a sample was rejected or the daemon left."""
        data = self.socket.recv(65_536)
        if not data or REJECTED in data:
            raise RuntimeError(f"the daemon left or rejected a sample: {data[:300]!r}")
        data = self._rest + data
        count = data.count(ACCEPTED)
        self._rest = data[data.rfind(ACCEPTED) + len(ACCEPTED) :] if count else data
        self.acked += count
        return count

    def _make_frame(self, number: int) -> bytes:
        step, server = divmod(number, SERVERS_A_CONNECTION)
        payload = b"%b%d%b" % (self._heads[server], START + step * STEP_SECONDS, self._tail)
        # The key of the mask is 0, which leaves the payload as it is.
        return b"\x81\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload

    def _upgrade(self) -> None:
        self.socket.sendall(UPGRADE.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.socket.recv(4_096)
        if b" 101 " not in answer:
            raise RuntimeError(f"no WebSocket: {answer[:200]!r}")


def run_client(port: int, number: int, connections: int, seconds: float) -> None:
    """Run one client process: connect, wait for a line on standard input, send, and print the count of acks."""
    agents = [Agent(port, f"c{number}-{place}") for place in range(connections)]
    selector = selectors.DefaultSelector()
    for agent in agents:
        selector.register(agent.socket, selectors.EVENT_READ, agent)
    print("connected", flush=True)
    sys.stdin.readline()
    until = time.monotonic() + seconds
    for agent in agents:
        agent.send(IN_FLIGHT)
    while time.monotonic() < until:
        for key, _ in selector.select(1.0):
            if count := key.data.read():
                key.data.send(count)
    print(json.dumps({"acked": sum(agent.acked for agent in agents)}), flush=True)


# ---------------------------------------------------------------- the measurement
def measure(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Measure one daemon; returns frames a second and the busy shares of all processes."""
    with tempfile.TemporaryDirectory(prefix="streamd-bench-", dir=args.scratch) as folder:
        port = find_free_port()
        daemon = _start_daemon(args, workers, port, Path(folder))
        clients: list[subprocess.Popen[str]] = []
        try:
            _wait_until_listening(daemon, port)
            clients = [_start_client(args, port, number) for number in range(args.clients)]
            for client in clients:
                _read_line(client)
            parts = {read_part(pid): pid for pid in (daemon.pid, *list_children(daemon.pid))}
            pids = {**parts, **{f"client {number}": client.pid for number, client in enumerate(clients)}}
            before, began = _read_seconds(pids), time.monotonic()
            for client in clients:
                _write_line(client)
            acked = sum(json.loads(_read_line(client))["acked"] for client in clients)
            lasted, after = time.monotonic() - began, _read_seconds(pids)
        finally:
            processes: list[subprocess.Popen[Any]] = [*clients, daemon]
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(40)
    busy = {name: round((after[name] - before[name]) / lasted, 2) for name in pids}
    used = sum(after[name] - before[name] for name in parts)
    return {
        "workers": workers,
        "frames_per_second": round(acked / lasted),
        "daemon_us_a_frame": round(used / max(acked, 1) * 1e6, 1),
        "busy": busy,
    }


def _start_daemon(args: argparse.Namespace, workers: int, port: int, folder: Path) -> "subprocess.Popen[bytes]":
    settings = {
        "workers": workers,
        "max_servers": args.clients * args.connections * SERVERS_A_CONNECTION + 64,
        "min_context_rows": 288,
        "lanes": 1,
        "buckets": 1,
        "backend": "onnxruntime-cpu",
        "warmup_seconds": 0.2,
        "log_level": "warning",
        **({"engines": args.engines} if args.engines else {}),
    }
    environ = {**os.environ, **{f"STREAMD_{key.upper()}": str(value) for key, value in settings.items()}}
    command = [sys.executable, "-m", "streamd", "serve", "--config", str(ROOT / "config.toml")]
    command += ["--port", str(port), "--state-dir", str(folder / "state")]
    return subprocess.Popen(command, env=environ, cwd=ROOT)


def _wait_until_listening(daemon: "subprocess.Popen[bytes]", port: int, timeout_seconds: float = 60.0) -> None:
    until = time.monotonic() + timeout_seconds
    while time.monotonic() < until and daemon.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 5.0) as probe:
                probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                if b" 200 " in probe.recv(100):
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the daemon was not ready (exit status {daemon.poll()})")


def _start_client(args: argparse.Namespace, port: int, number: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.single_samples", "--client", str(number), "--port", str(port)]
    command += ["--connections", str(args.connections), "--seconds", str(args.seconds)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def _read_line(client: "subprocess.Popen[str]") -> str:
    assert client.stdout is not None
    line = client.stdout.readline()
    if not line:
        raise RuntimeError(f"a client ended with {client.wait()}")
    return line


def _write_line(client: "subprocess.Popen[str]") -> None:
    assert client.stdin is not None
    client.stdin.write("\n")
    client.stdin.flush()


def _read_seconds(pids: dict[str, int]) -> dict[str, float]:
    found = {}
    for name, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        found[name] = (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each number of workers, or run as one of the clients."""
    args = _parse(arguments)
    if args.client is not None:
        run_client(args.port, args.client, args.connections, args.seconds)
        return 0
    results = [measure(args, workers) for workers in args.workers]
    first = results[0]["frames_per_second"] / results[0]["workers"]
    rows = []
    for each in results:
        busy, workers = each["busy"], each["workers"]
        each["of_linear"] = round(each["frames_per_second"] / first / workers, 2)
        loops = [share for name, share in busy.items() if not name.startswith("client")]
        clients = [share for name, share in busy.items() if name.startswith("client")]
        share = f"{max(loops):.2f} / {sum(loops):.2f}"
        rows.append(
            (workers, each["frames_per_second"], each["of_linear"], each["daemon_us_a_frame"], share, max(clients))
        )
    head = ("workers", "frames/s", "of N times", "daemon us a frame", "busiest / all of the daemon", "busiest client")
    print_table(f"single samples in JSON, acked; {len(os.sched_getaffinity(0))} cores in all", head, rows)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        report = {"machine": describe_machine(), "clients": args.clients, "connections": args.connections}
        args.out.write_text(json.dumps({**report, "results": results}, indent=1) + "\n", encoding="utf-8")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.single_samples", description=__doc__)
    parser.add_argument("--workers", type=_parse_numbers, default=(1, 2), help="numbers of workers [default: 1,2]")
    parser.add_argument("--clients", type=int, default=2, help="client processes [default: %(default)s]")
    parser.add_argument("--connections", type=int, default=48, help="of each client [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each stretch [default: %(default)g]")
    parser.add_argument("--engines", type=Path, help="folder of engine versions [default: the repository's]")
    parser.add_argument("--scratch", type=Path, help="folder for the daemon's state [default: the temporary folder]")
    parser.add_argument("--out", type=Path, help="file for the results as JSON [default: none]")
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _parse_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
