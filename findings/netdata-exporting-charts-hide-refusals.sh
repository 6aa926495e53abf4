#!/usr/bin/env bash
# netdata 1.37.1's own charts of its exports look the same for a destination that refuses everything as for a good one.
#
# netdata has charts netdata.exporting_NAME_metrics and _ops with the dimensions sent, lost, discard and failure. A batch
# that is answered with 400, 429 or 503 is gone, since it is not sent again; yet in the charts all metrics of it are sent,
# and lost, discard and failure stay 0. Only a destination that cannot be reached shows as failure. So an alarm on these
# charts misses every refusal.
#
# Seen with Debian 12's netdata-core 1.37.1-2, x86-64. Exports a chart to four local servers for 12 s, prints what came and
# what the charts say, and fails if that changes. Only loopback is used.
set -euo pipefail
version=1.37.1-2
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
get() { # netdata, and the libraries that a small Debian may lack
  apt-get download -qq -o APT::Sandbox::User=root "netdata-core=$version" \
    libjson-c5 liblz4-1 libssl3 libuuid1 libuv1 zlib1g
}
get 2> /dev/null || { apt-get update -qq && get; }
for package in ./*.deb; do dpkg -x "$package" tree; done
mkdir config cache lib log web
touch config/.opt-out-from-anonymous-statistics
cat > watch.py <<'PY'
import getpass
import json
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.request import urlopen

STATUSES = (200, 400, 429, 503)
posts: dict[int, list[bytes]] = {status: [] for status in STATUSES}


class Destination(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status: int

    def do_POST(self) -> None:
        posts[self.status].append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        """netdata resets its connections when it ends."""


def find_free() -> str:
    with ThreadingHTTPServer(("127.0.0.1", 0), Destination) as unused:
        return f"127.0.0.1:{unused.server_port}"


def chart(name: str) -> dict[str, float]:
    """Return the sum of each dimension of a chart over 8 s."""
    url = f"http://{own}/api/v1/data?chart=netdata.exporting_{name}&after=-8&points=1&group=sum"
    with urlopen(url, timeout=5) as answer:
        table = json.load(answer)
    return dict(zip(table["labels"], table["data"][0]))


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
destinations = {"closed": find_free()}
for status in STATUSES:
    server = Quiet(("127.0.0.1", 0), type("Answer", (Destination,), {"status": status}))
    Thread(target=server.serve_forever, daemon=True).start()
    destinations[f"s{status}"] = f"127.0.0.1:{server.server_port}"
own = find_free()
here = Path.cwd()
off = "apps cgroups diskspace idlejitter nfacct perf slabinfo statsd tc timex".split()
Path("config/netdata.conf").write_text(
    f"""[global]
run as user = {getpass.getuser()}
hostname = web-01
[directories]
config = {here}/config
stock config = {here}/tree/usr/lib/netdata/conf.d
plugins = {here}/tree/usr/lib/netdata/plugins.d
log = {here}/log
web = {here}/web
cache = {here}/cache
lib = {here}/lib
[db]
mode = ram
[web]
bind to = {own}
[health]
enabled = no
[ml]
enabled = no
[cloud]
enabled = no
[plugins]
enable running new plugins = no
"""
    + "".join(f"{name} = no\n" for name in off)
)
Path("config/exporting.conf").write_text(
    "[exporting:global]\nenabled = yes\nupdate every = 1\n"
    + "".join(
        f"[json:http:{name}]\nenabled = yes\ndestination = {address}\nupdate every = 1\n"
        "send charts matching = system.cpu !*\n"
        for name, address in destinations.items()
    )
)
libraries = ":".join(str(path) for path in [*here.glob("tree/usr/lib/*-linux-gnu"), *here.glob("tree/lib/*-linux-gnu")])
command = ["timeout", "60", "env", f"LD_LIBRARY_PATH={libraries}", "tree/usr/sbin/netdata"]
with open("output", "wb") as output:
    netdata = subprocess.Popen([*command, "-D", "-c", "config/netdata.conf"], stdout=output, stderr=output)
try:
    deadline = time.monotonic() + 30
    while not all(len(bodies) >= 16 for bodies in posts.values()) and time.monotonic() < deadline:
        time.sleep(0.1)
    charts = {name: chart(f"{name}_metrics") | chart(f"{name}_ops") for name in destinations}
finally:
    netdata.terminate()
    netdata.wait(30)
for status in STATUSES:
    items = [(item["id"], item["timestamp"]) for body in posts[status] for item in json.loads(body)]
    once = "each item once" if items and len(set(items)) == len(items) else "other"
    seen = charts[f"s{status}"]
    good = charts["s200"]["sent"]
    sent = "as for 200" if 0 < seen["sent"] and abs(seen["sent"] - good) <= good / 4 else "other"
    counts = ", ".join(f"{name} {seen[name]:g}" for name in ("lost", "discard", "failure"))
    print(f"{status}: {once}; sent {sent}, {counts}")
print(f"closed port: sent {charts['closed']['sent']:g}, failure {'yes' if charts['closed']['failure'] else 'no'}")
PY
timeout 90 "$python" watch.py > seen || { tail -n 5 output log/error.log >&2; exit 1; }
echo "netdata $version:" && sed 's/^/  /' seen
diff seen - <<'LINES' || { echo "netdata $version behaves otherwise now" >&2; exit 1; }
200: each item once; sent as for 200, lost 0, discard 0, failure 0
400: each item once; sent as for 200, lost 0, discard 0, failure 0
429: each item once; sent as for 200, lost 0, discard 0, failure 0
503: each item once; sent as for 200, lost 0, discard 0, failure 0
closed port: sent 0, failure yes
LINES
