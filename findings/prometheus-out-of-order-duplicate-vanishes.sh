#!/usr/bin/env bash
# Prometheus 2.42.0 with an out-of-order window answers 204 to a sample with another value for a time that it has, and
# drops it: no counter, no line of the log, no other status says so. Without the window the same request gets 400.
#
# A sender that corrects values by remote write, such as one that sends each forecast of a time anew, so believes that
# all of them are stored; queries show the first value for ever. Without `out_of_order_time_window` the correction of an
# older time is answered 400 "out of order sample" and logged. With the window a late sample of a new time is stored, as
# the setting promises, and one with another value for a time that is there is dropped, and its answer is the same.
# VictoriaMetrics 1.79.5 answers 204 too, and stores both.
#
# Seen with Debian 12's prometheus 2.42.0+ds-5+deb12u1, x86-64. Takes ten seconds, prints the answers and what queries
# and metrics say, and fails if that changes. Only loopback is used.
set -euo pipefail
version=2.42.0+ds-5+deb12u1
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
get() { apt-get download -qq -o APT::Sandbox::User=root "prometheus=$version"; }
get 2> /dev/null || { apt-get update -qq && get; }
dpkg -x ./*.deb root
cat > write.py <<'PY'
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def part(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + varint(len(content)) + content


def write(seconds: int, value: float) -> str:
    """Send one sample of the series `m` by remote write; return the answer."""
    label = part(1, part(1, b"__name__") + part(2, b"m"))
    sample = part(2, b"\x09" + struct.pack("<d", value) + b"\x10" + varint(seconds * 1000))
    message = part(1, label + sample)
    body = varint(len(message)) + bytes([len(message) - 1 << 2]) + message  # snappy: one literal
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    try:
        with urlopen(Request(f"http://{own}/api/v1/write", body, headers), timeout=5) as answer:
            return str(answer.status)
    except HTTPError as error:
        return f"{error.code} {error.read().decode().strip()}"


def get(path: str) -> str:
    with urlopen(f"http://{own}{path}", timeout=5) as answer:
        return answer.read().decode()


def count(metric: str) -> int:
    lines = [line for line in get("/metrics").splitlines() if line.startswith(f"{metric} ")]
    return int(float(lines[0].split()[1]))


def observe() -> None:
    now = int(time.time())
    print("  a sample of now:", write(now, 1))
    print("  a sample of a minute ago:", write(now - 60, 2))
    before = count("prometheus_tsdb_head_out_of_order_samples_appended_total")
    log_bytes = Path("log").stat().st_size
    print("  another value of a minute ago:", write(now - 60, 3))
    print("  counted as appended out of order:", count("prometheus_tsdb_head_out_of_order_samples_appended_total") - before)
    print("  logged:", Path("log").stat().st_size > log_bytes)
    series = json.loads(get(f"/api/v1/query?time={now + 1}&query={quote('m[5m]')}"))["data"]["result"]
    print("  stored:", ", ".join(f"{at - now:.0f} s: {value}" for at, value in series[0]["values"]))


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
for window in ("0s", "1h"):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        own = f"127.0.0.1:{unused.getsockname()[1]}"
    Path("prometheus.yml").write_text(json.dumps({"storage": {"tsdb": {"out_of_order_time_window": window}}}))
    command = ["timeout", "60", "root/usr/bin/prometheus", "--config.file=prometheus.yml"]
    command += [f"--storage.tsdb.path=data-{window}", "--web.enable-remote-write-receiver"]
    with open("log", "wb") as log:
        prometheus = subprocess.Popen([*command, f"--web.listen-address={own}"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 40
        while True:
            try:
                get("/-/ready")
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        print(f"out_of_order_time_window {window}:")
        observe()
    finally:
        prometheus.terminate()
        prometheus.wait(20)
PY
timeout 120 "$python" write.py > seen || { tail -n 5 log >&2; exit 1; }
echo "prometheus $version:" && sed 's/^/  /' seen
diff seen - <<'LINES' || { echo "prometheus $version behaves otherwise now" >&2; exit 1; }
out_of_order_time_window 0s:
  a sample of now: 204
  a sample of a minute ago: 400 out of order sample
  another value of a minute ago: 400 out of order sample
  counted as appended out of order: 0
  logged: True
  stored: 0 s: 1
out_of_order_time_window 1h:
  a sample of now: 204
  a sample of a minute ago: 204
  another value of a minute ago: 204
  counted as appended out of order: 0
  logged: False
  stored: -60 s: 2, 0 s: 1
LINES
