#!/usr/bin/env bash
# OpenTelemetry Python's OTLP/HTTP exporter 1.45.2 calls a redirect a success, does not follow it, and says nothing.
#
# If the endpoint answers with 301, 302, 303, 307 or 308, as a proxy does that wants https or another path, version 1.45.2
# sends nothing to the address in Location, and export() returns SUCCESS. Not one line is logged at WARNING or above, so
# all metrics are lost while the program believes that they arrived. Version 1.38.0 follows the same answers: 307 and 308
# deliver the body, so a set-up that works with it stops with the update, without a sign. (1.38.0 follows 301, 302 and
# 303 with a GET that has no body, and calls that a success too.) Both log an ERROR and return FAILURE on a 404.
#
# Seen with opentelemetry-exporter-otlp-proto-http and opentelemetry-sdk 1.38.0 and 1.45.2, requests 2.34.2, CPython 3.11.
# Prints what each version does, and fails if that changes. Takes half a minute; only loopback is used.
set -euo pipefail
python=${PYTHON:-python3.11}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/export.py" <<'PY'
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

requests: list[str] = []
logged: list[str] = []


class Proxy(BaseHTTPRequestHandler):
    """Answers `/STATUS` with that status, and takes whatever comes to `/moved`."""

    def answer(self) -> None:
        size = len(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        requests.append(f"{self.command} {self.path} {'with' if size else 'without'} a body")
        self.send_response(200 if self.path == "/moved" else int(self.path[1:]))
        self.send_header("Location", "/moved")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = answer

    def log_message(self, *args: object) -> None:
        pass


class Collect(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logged.append(record.levelname)


logging.getLogger().addHandler(Collect(logging.WARNING))
server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
Thread(target=server.serve_forever, daemon=True).start()
reader = InMemoryMetricReader()
MeterProvider([reader]).get_meter("finding").create_counter("requests").add(1)
data = reader.get_metrics_data()
for status in (301, 302, 303, 307, 308, 404):
    requests.clear()
    logged.clear()
    exporter = OTLPMetricExporter(endpoint=f"http://127.0.0.1:{server.server_port}/{status}", timeout=5)
    result = exporter.export(data).name
    print(f"{status}: {result}; {', then '.join(requests)}; logged: {', '.join(logged) or 'nothing'}")
    exporter.shutdown()
server.shutdown()
PY

expect() { # expect VERSION, the lines on standard input
  "$python" -m venv "$work/$1"
  "$work/$1/bin/python" -m pip install --quiet --disable-pip-version-check \
    "opentelemetry-exporter-otlp-proto-http==$1" "opentelemetry-sdk==$1" requests==2.34.2
  timeout 60 "$work/$1/bin/python" "$work/export.py" > "$work/$1/seen"
  echo "opentelemetry-exporter-otlp-proto-http $1:" && sed 's/^/  /' "$work/$1/seen"
  diff "$work/$1/seen" - || { echo "version $1 behaves otherwise now" >&2; exit 1; }
}

expect 1.38.0 <<'LINES'
301: SUCCESS; POST /301 with a body, then GET /moved without a body; logged: nothing
302: SUCCESS; POST /302 with a body, then GET /moved without a body; logged: nothing
303: SUCCESS; POST /303 with a body, then GET /moved without a body; logged: nothing
307: SUCCESS; POST /307 with a body, then POST /moved with a body; logged: nothing
308: SUCCESS; POST /308 with a body, then POST /moved with a body; logged: nothing
404: FAILURE; POST /404 with a body; logged: ERROR
LINES
expect 1.45.2 <<'LINES'
301: SUCCESS; POST /301 with a body; logged: nothing
302: SUCCESS; POST /302 with a body; logged: nothing
303: SUCCESS; POST /303 with a body; logged: nothing
307: SUCCESS; POST /307 with a body; logged: nothing
308: SUCCESS; POST /308 with a body; logged: nothing
404: FAILURE; POST /404 with a body; logged: ERROR
LINES
