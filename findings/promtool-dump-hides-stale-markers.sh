#!/usr/bin/env bash
# `promtool tsdb dump` 2.42.0 writes where a series ends as a sample `NaN`, which nothing tells from a measured NaN.
#
# A query of a series that has ended gives no value, and its stale marker is in no range either. The dump has the marker
# as one more sample of the series, with the same three letters as a NaN that was scraped, which a query does return. So
# who counts the lines of a dump counts one sample too many for each end, and from a dump nobody can restore where series
# end: read as NaN the end is a value, read as an end each NaN cuts its series.
#
# Seen with Debian 12's prometheus 2.42.0+ds-5+deb12u1, x86-64. Scrapes for six seconds, prints what queries and the dump
# say, and fails if that changes. Only loopback is used.
set -euo pipefail
version=2.42.0+ds-5+deb12u1
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
get() { apt-get download -qq -o APT::Sandbox::User=root "prometheus=$version"; }
get 2> /dev/null || { apt-get update -qq && get; }
dpkg -x ./*.deb root
cat > scrape.py <<'PY'
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote
from urllib.request import urlopen

scrapes = 0


class Exporter(BaseHTTPRequestHandler):
    """Has `ratio`, which is NaN all the time, and `jobs` in the first three scrapes."""

    def do_GET(self) -> None:
        global scrapes
        scrapes += 1
        body = b"ratio NaN\n" + (b"jobs 7\n" if scrapes <= 3 else b"")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def query(expression: str) -> str:
    """Return the values of a query for one series."""
    with urlopen(f"http://{own}/api/v1/query?query={quote(expression)}", timeout=5) as answer:
        series = json.load(answer)["data"]["result"]
    if not series:
        return "no value"
    values = series[0].get("values") or [series[0]["value"]]
    return shorten(value for _, value in values)


def shorten(values: Iterable[str]) -> str:
    """Return values as text; NaN throughout is written once, since the number of scrapes may differ by one."""
    values = list(values)
    return "NaN, all of them" if len(values) > 1 and set(values) == {"NaN"} else ", ".join(values)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
server = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
Thread(target=server.serve_forever, daemon=True).start()
with ThreadingHTTPServer(("127.0.0.1", 0), Exporter) as unused:
    own = f"127.0.0.1:{unused.server_port}"
job = {"job_name": "a", "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}]}
Path("prometheus.yml").write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
command = ["timeout", "60", "root/usr/bin/prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
with open("log", "wb") as log:
    prometheus = subprocess.Popen([*command, f"--web.listen-address={own}"], stdout=log, stderr=log)
try:
    deadline = time.monotonic() + 40
    while scrapes < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    for expression in ("jobs[1m]", "jobs", "ratio[1m]", "ratio"):
        print(f"query {expression}: {query(expression)}")
finally:
    prometheus.terminate()
    prometheus.wait(20)
dump = subprocess.run(["root/usr/bin/promtool", "tsdb", "dump", "data"], capture_output=True, text=True, timeout=30)
for name in ("jobs", "ratio"):
    lines = [line for line in dump.stdout.splitlines() if line.startswith(f'{{__name__="{name}"')]
    print(f"dump of {name}: {shorten(line.split()[-2] for line in lines)}")
PY
timeout 120 "$python" scrape.py > seen || { tail -n 5 log >&2; exit 1; }
echo "prometheus $version:" && sed 's/^/  /' seen
diff seen - <<'LINES' || { echo "prometheus $version behaves otherwise now" >&2; exit 1; }
query jobs[1m]: 7, 7, 7
query jobs: no value
query ratio[1m]: NaN, all of them
query ratio: NaN
dump of jobs: 7, 7, 7, NaN
dump of ratio: NaN, all of them
LINES
