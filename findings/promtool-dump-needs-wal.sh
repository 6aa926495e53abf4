#!/usr/bin/env bash
# `promtool tsdb dump` 2.42.0 cannot dump what promtool itself has imported, nor a snapshot of Prometheus.
#
# Blocks are all there is in the folder that `promtool tsdb create-blocks-from openmetrics` writes, and in the snapshot
# that Prometheus' admin API makes. The dump of both ends with status 1 for want of a folder `wal`, and prints no sample.
# It works if an empty `wal` is made, and also, which nothing says, with a --max-time below the end of the last block,
# as the log is not opened then. `promtool tsdb list` takes the same folders. And the dump, which only reads, leaves a new
# folder `chunks_head` behind.
#
# Seen with Debian 12's prometheus 2.42.0+ds-5+deb12u1, x86-64. Prints what each command does, and fails if that changes.
# Takes some seconds; only loopback is used.
set -euo pipefail
version=2.42.0+ds-5+deb12u1
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
get() { apt-get download -qq -o APT::Sandbox::User=root "prometheus=$version"; }
get 2> /dev/null || { apt-get update -qq && get; }
dpkg -x ./*.deb root
cat > dump.py <<'PY'
import json
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["root/usr/bin/promtool", "tsdb", *arguments], capture_output=True, text=True, timeout=30)


def dump(folder: str, *options: str) -> str:
    done = run("dump", *options, folder)
    said = done.stderr.strip().replace(folder, "").rpartition("open ")[2]
    return f"status {done.returncode}, {'some' if done.stdout else 'no'} samples" + (f", {said}" if said else "")


def check(kind: str, folder: str) -> None:
    names = {path.name for path in Path(folder).iterdir()}
    last = max(json.loads(path.read_text())["maxTime"] for path in Path(folder).glob("*/meta.json"))
    print(f"{kind}, list: status {run('list', folder).returncode}")
    print(f"{kind}, dump: {dump(folder)}")
    print(f"{kind}, new in the folder: {', '.join(sorted({path.name for path in Path(folder).iterdir()} - names))}")
    print(f"{kind}, dump up to the end of the last block: {dump(folder, f'--max-time={last}')}")
    print(f"{kind}, dump up to 1 ms before: {dump(folder, f'--max-time={last - 1}')}")
    Path(folder, "wal").mkdir()
    print(f"{kind}, dump with an empty wal: {dump(folder)}")


def take_snapshot() -> str:
    """Run Prometheus until it has scraped itself, and return the folder of a snapshot."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as unused:
        own = f"127.0.0.1:{unused.server_port}"
    job = {"job_name": "a", "static_configs": [{"targets": [own]}]}
    Path("prometheus.yml").write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    command = ["timeout", "60", "root/usr/bin/prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    with open("log", "wb") as log:
        prometheus = subprocess.Popen(
            [*command, f"--web.listen-address={own}", "--web.enable-admin-api"], stdout=log, stderr=log
        )
    try:
        for _ in range(150):
            time.sleep(0.2)
            try:
                with urlopen(f"http://{own}/api/v1/query?query=up", timeout=5) as answer:
                    if json.load(answer)["data"]["result"]:
                        break
            except URLError:
                pass
        with urlopen(Request(f"http://{own}/api/v1/admin/tsdb/snapshot", method="POST"), timeout=20) as answer:
            return f"data/snapshots/{json.load(answer)['data']['name']}"
    finally:
        prometheus.terminate()
        prometheus.wait(20)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
Path("import.txt").write_text("# TYPE jobs gauge\njobs 1 1700000000\njobs 2 1700000060\n# EOF\n")
run("create-blocks-from", "openmetrics", "import.txt", "imported").check_returncode()
check("import", "imported")
check("snapshot", take_snapshot())
PY
timeout 120 "$python" dump.py > seen || { tail -n 5 log >&2; exit 1; }
echo "prometheus $version:" && sed 's/^/  /' seen
diff seen - <<'LINES' || { echo "prometheus $version behaves otherwise now" >&2; exit 1; }
import, list: status 0
import, dump: status 1, no samples, /wal: no such file or directory
import, new in the folder: chunks_head
import, dump up to the end of the last block: status 1, no samples, /wal: no such file or directory
import, dump up to 1 ms before: status 0, some samples
import, dump with an empty wal: status 0, some samples
snapshot, list: status 0
snapshot, dump: status 1, no samples, /wal: no such file or directory
snapshot, new in the folder: chunks_head
snapshot, dump up to the end of the last block: status 1, no samples, /wal: no such file or directory
snapshot, dump up to 1 ms before: status 0, some samples
snapshot, dump with an empty wal: status 0, some samples
LINES
