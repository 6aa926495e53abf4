#!/usr/bin/env bash
# JetStream 2.9.10 (Debian 12) with three replicas stores several updates of a key that expect the same revision.
#
# `KeyValue.update(key, value, last=revision)` is a compare-and-set: of several at once, one may succeed. It sends
# `Nats-Expected-Last-Subject-Sequence: revision`. With one replica that holds. With three, the leader compares before it
# proposes the message to its followers and, for a revision above 0, not again when the message is applied: updates that
# arrive while another one is still on its way pass as well. Each caller gets an acknowledgement with a revision of its
# own, and only the last value stays. Leases, locks and fences that are built on it have two owners, without an error.
# It needs no fault: a few clients on a healthy cluster are enough, in a fifth to a half of the rounds here. The server
# compares again since 2.9.21. On 2.9.10 these hold: `create` (revision 0, compared when applied) and
# `Nats-Expected-Last-Sequence`, the last sequence of the whole stream.
#
# Seen with nats-server 2.9.10-1+b3 of Debian 12 and nats-py 2.16.0, CPython 3.11, x86-64 Linux. Prints in how many of 300
# rounds more than one of six updates succeeded, and fails if that changes.
set -euo pipefail
python=${PYTHON:-python3.11}
work=$(mktemp -d)
pids=()
stop() {
  [ ${#pids[@]} -eq 0 ] || { kill -9 "${pids[@]}" && wait "${pids[@]}"; } 2> /dev/null || true
  rm -rf "$work"
}
trap stop EXIT
cd "$work"
version=2.9.10-1+b3
get() { apt-get download -qq -o APT::Sandbox::User=root "nats-server=$version"; }
get 2> /dev/null || { apt-get update -qq && get; }
dpkg-deb -x nats-server_*.deb server
server=$(find "$work/server" -type f -name nats-server)
"$python" -m venv venv
venv/bin/pip install -q --disable-pip-version-check nats-py==2.16.0
read -r -a ports <<< "$("$python" -c '
import socket
sockets = [socket.socket() for _ in range(6)]
for each in sockets: each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))')"
routes="nats://127.0.0.1:${ports[3]}, nats://127.0.0.1:${ports[4]}, nats://127.0.0.1:${ports[5]}"
for i in 0 1 2; do
  cat > "$i.conf" <<CONF
server_name: n$i
listen: 127.0.0.1:${ports[i]}
jetstream { store_dir: $work/$i, max_file: 1G }
cluster { name: c, listen: 127.0.0.1:${ports[i + 3]}, routes: [$routes] }
CONF
  "$server" -c "$i.conf" 2> "$i.log" &
  pids+=($!)
done
cat > race.py <<'PY'
import asyncio
import sys

import nats
from nats.js.api import KeyValueConfig, StorageType

ROUNDS = 300
URLS = [f"nats://127.0.0.1:{port}" for port in sys.argv[1:]]


async def make(js, replicas):
    for _ in range(100):
        try:
            return await js.create_key_value(KeyValueConfig(bucket=f"r{replicas}", replicas=replicas, storage=StorageType.FILE))
        except Exception:  # the servers have not found each other yet
            await asyncio.sleep(0.2)
    raise SystemExit("the servers make no bucket")


async def race(clients, bucket, header):
    """Return in how many rounds more than one of the clients succeeded."""
    contexts = [client.jetstream() for client in clients]
    tables = [await context.key_value(bucket) for context in contexts]
    last, several = await tables[0].put("lease", b""), 0

    async def update(number):
        try:
            if header is None:
                return await tables[number].update("lease", b"%d" % number, last=last)
            headers = {header: str(last)}
            return (await contexts[number].publish(f"$KV.{bucket}.lease", b"%d" % number, headers=headers)).seq
        except nats.js.errors.APIError as error:
            assert "wrong last sequence" in str(error), error
            return 0

    for _ in range(ROUNDS):
        won = [revision for revision in await asyncio.gather(*map(update, range(len(clients)))) if revision]
        several += len(won) > 1
        last = max(won)
    return several


async def main():
    clients = [await nats.connect(url) for url in URLS * 2]
    print("server", clients[0].connected_server_version)
    for replicas in (1, 3):
        await make(clients[0].jetstream(), replicas)
    counts = {
        "one replica, update": await race(clients, "r1", None),
        "three replicas, update": await race(clients, "r3", None),
        "three replicas, Nats-Expected-Last-Sequence": await race(clients, "r3", "Nats-Expected-Last-Sequence"),
    }
    for name, count in counts.items():
        print(f"{name}: more than one succeeded in {count} of {ROUNDS} rounds")
    for client in clients:
        await client.close()
    first, second, third = counts.values()
    sys.exit(0 if (first, third) == (0, 0) and second > 0 else 1)


asyncio.run(main())
PY
venv/bin/python race.py "${ports[@]:0:3}"
