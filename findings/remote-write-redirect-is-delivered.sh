#!/usr/bin/env bash
# Prometheus 2.42.0 and vmagent 1.79.5 count samples as sent that a redirect of the remote write endpoint has swallowed.
#
# If a proxy answers a remote write with 301, 302 or 303, say to a login page, both go on with a GET that has no body. A
# 200 to that GET is a success to them: Prometheus counts the samples as sent, none as failed or retried, vmagent counts a
# request with 2XX, and neither logs a warning. So all samples are lost without a sign. Only 307 and 308 make them POST
# the samples again.
#
# Seen with Debian 12's prometheus 2.42.0+ds-5+deb12u1 and victoria-metrics 1.79.5+ds1-2+b5, x86-64. Prints what comes for
# each status, and fails if that changes. Takes half a minute at most; only loopback is used.
set -euo pipefail
prometheus=2.42.0+ds-5+deb12u1
vmagent=1.79.5+ds1-2+b5
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
get() { apt-get download -qq -o APT::Sandbox::User=root "prometheus=$prometheus" "victoria-metrics=$vmagent"; }
get 2> /dev/null || { apt-get update -qq && get; }
for package in ./*.deb; do dpkg -x "$package" root; done
cat > watch.py <<'PY'
import json
import re
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.request import urlopen

STATUSES = (301, 302, 303, 307, 308)
seen: dict[str, list[str]] = {}


class Proxy(BaseHTTPRequestHandler):
    """Has one metric to scrape. `/AGENT/STATUS` answers with that status, `/AGENT/STATUS/login` takes whatever comes."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        size = len(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        path = self.path.removesuffix("/login")
        scraped = path == "/metrics"
        redirected = path != self.path
        if not scraped:
            request = f"{self.command} {'login' if redirected else 'write'} {'with' if size else 'without'} body"
            seen.setdefault(path, []).append(request)
        body = b"jobs 1\n" if scraped else b""
        self.send_response(200 if scraped or redirected else int(path.split("/")[2]))
        self.send_header("Location", f"{path}/login")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *args: object) -> None:
        pass


def find_free() -> str:
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as unused:
        return f"127.0.0.1:{unused.server_port}"


def read_metrics(address: str) -> str:
    with urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return answer.read().decode()


def count(metrics: str, name: str, label: str) -> int:
    """Return the value of the series that has this text among its labels."""
    return int(re.search(rf"^{name}\{{[^}}]*{label}[^}}]*\}} (\d+)", metrics, re.MULTILINE)[1])


def has_warning(log: str) -> bool:
    """Return whether a log has a warning or an error of Prometheus' remote write, or of vmagent."""
    pattern = r"component=remote level=(warn|error)|\t(warn|error|fatal|panic)\t"
    return re.search(pattern, Path(log).read_text()) is not None


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
Thread(target=server.serve_forever, daemon=True).start()
target = f"127.0.0.1:{server.server_port}"
scrape = {
    "global": {"scrape_interval": "1s"},
    "scrape_configs": [{"job_name": "a", "static_configs": [{"targets": [target]}]}],
}
writes = [
    {"url": f"http://{target}/prometheus/{status}", "queue_config": {"batch_send_deadline": "1s"}} for status in STATUSES
]
Path("vmagent.yml").write_text(json.dumps(scrape))
Path("prometheus.yml").write_text(json.dumps(scrape | {"remote_write": writes}))
ports = {"prometheus": find_free(), "vmagent": find_free()}
commands = {
    "prometheus": [
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address={ports['prometheus']}",
    ],
    "vmagent": [
        "-promscrape.config=vmagent.yml",
        "-remoteWrite.tmpDataPath=queues",
        "-memory.allowedBytes=256MB",
        f"-httpListenAddr={ports['vmagent']}",
        *(f"-remoteWrite.url=http://{target}/vmagent/{status}" for status in STATUSES),
    ],
}
agents = []
try:
    for name, options in commands.items():
        with open(f"{name}.log", "wb") as log:
            command = ["timeout", "60", f"root/usr/bin/{name}", *options]
            agents.append(subprocess.Popen(command, stdout=log, stderr=log))
    paths = [f"/{name}/{status}" for name in commands for status in STATUSES]
    deadline = time.monotonic() + 40
    while not all(len(seen.get(path, [])) >= 6 for path in paths) and time.monotonic() < deadline:
        time.sleep(0.1)
    metrics = {name: read_metrics(address) for name, address in ports.items()}
finally:
    for agent in agents:
        agent.terminate()
    for agent in agents:
        agent.wait(20)
for status in STATUSES:
    label = f"prometheus/{status}"
    storage = "prometheus_remote_storage_samples"
    sent, failed, retried, dropped = (
        count(metrics["prometheus"], f"{storage}_{kind}total", label) for kind in ("", "failed_", "retried_", "dropped_")
    )
    requests = ", then ".join(dict.fromkeys(seen[f"/{label}"]))
    result = f"{'some' if sent else 'none'} sent, failed {failed}, retried {retried}, dropped {dropped}"
    print(f"prometheus {status}: {requests}; counted: {result}")
for url, status in enumerate(STATUSES, 1):
    label = f'url="{url}:secret-url"'
    sent = count(metrics["vmagent"], "vmagent_remotewrite_requests_total", f'{label}, status_code="2XX"')
    retried = count(metrics["vmagent"], "vmagent_remotewrite_retries_count_total", label)
    dropped = count(metrics["vmagent"], "vmagent_remotewrite_packets_dropped_total", label)
    requests = ", then ".join(dict.fromkeys(seen[f"/vmagent/{status}"]))
    result = f"{'some' if sent else 'none'} sent, retried {retried}, dropped {dropped}"
    print(f"vmagent {status}: {requests}; counted: {result}")
for name in commands:
    print(f"{name}: {'a warning' if has_warning(f'{name}.log') else 'no warning'} in the log")
PY
timeout 90 "$python" watch.py > seen || { tail -n 5 ./*.log >&2; exit 1; }
echo "prometheus $prometheus, vmagent $vmagent:" && sed 's/^/  /' seen
diff seen - <<'LINES' || { echo "they behave otherwise now" >&2; exit 1; }
prometheus 301: POST write with body, then GET login without body; counted: some sent, failed 0, retried 0, dropped 0
prometheus 302: POST write with body, then GET login without body; counted: some sent, failed 0, retried 0, dropped 0
prometheus 303: POST write with body, then GET login without body; counted: some sent, failed 0, retried 0, dropped 0
prometheus 307: POST write with body, then POST login with body; counted: some sent, failed 0, retried 0, dropped 0
prometheus 308: POST write with body, then POST login with body; counted: some sent, failed 0, retried 0, dropped 0
vmagent 301: POST write with body, then GET login without body; counted: some sent, retried 0, dropped 0
vmagent 302: POST write with body, then GET login without body; counted: some sent, retried 0, dropped 0
vmagent 303: POST write with body, then GET login without body; counted: some sent, retried 0, dropped 0
vmagent 307: POST write with body, then POST login with body; counted: some sent, retried 0, dropped 0
vmagent 308: POST write with body, then POST login with body; counted: some sent, retried 0, dropped 0
prometheus: no warning in the log
vmagent: no warning in the log
LINES
