#!/usr/bin/env bash
# tritonclient 2.73.0: its asyncio client asks for compressed answers that it does not decompress.
#
# Every request of `tritonclient.http.aio` has `Accept-Encoding: gzip, deflate, br`: aiohttp adds it, and br because
# geventhttpclient, which tritonclient[http] needs, brings Brotli. But the client turns aiohttp's decompression off and
# decodes only the answers of `infer`, and of these only gzip and deflate. So behind a proxy that compresses what a
# client accepts, `get_server_metadata` and all other calls but `infer` fail with UnicodeDecodeError, with br `infer`
# fails too ("Failed to encode using UTF-8. Please use binary_data=True"), and the message of an error from the server
# is lost. `tritonclient.http`, for the same server, sends no Accept-Encoding and works. Remedy:
# headers={"Accept-Encoding": "identity"} in each call.
#
# Seen with tritonclient 2.73.0, aiohttp 3.14.5, geventhttpclient 2.6.1, Brotli 1.2.1, CPython 3.11.
# Prints what each client gets, and fails if that changes. Takes half a minute; only loopback is used.
set -euo pipefail
python=${PYTHON:-python3.11}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/ask.py" <<'PY'
import asyncio
import gzip
import json

import brotli
import tritonclient.http as blocking
import tritonclient.http.aio as asynchronous
from aiohttp import web

METADATA = {"name": "server", "version": "1", "extensions": []}
OUTPUT = {"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}
ANSWER = {"model_name": "m", "model_version": "1", "outputs": [OUTPUT]}
COMPRESS = {"gzip": gzip.compress, "br": brotli.compress}
coding, accepted = "", set()


async def answer(request):
    """Answer as a server behind a proxy does that compresses in one coding, if the client accepts it."""
    status = 404 if request.path.endswith("/stats") else 200
    message = {"error": "unknown model"} if status == 404 else ANSWER if request.method == "POST" else METADATA
    body, headers = json.dumps(message).encode(), {"Content-Type": "application/json"}
    accepted.add(request.headers.get("Accept-Encoding", "nothing"))
    if coding in request.headers.get("Accept-Encoding", ""):
        body, headers["Content-Encoding"] = COMPRESS[coding](body), coding
    return web.Response(body=body, status=status, headers=headers)


def list_calls(module, client):
    x = module.InferInput("x", [1], "FP32")
    wanted = [module.InferRequestedOutput("y", binary_data=False)]
    return {
        "metadata": lambda **more: client.get_server_metadata(**more),
        "infer": lambda **more: client.infer("m", [x], outputs=wanted, **more),
        "error": lambda **more: client.get_inference_statistics("m", **more),
    }


def describe(name, result):
    if isinstance(result, Exception):
        text = str(result)
        return f"{name} {text if 'unknown model' in text else type(result).__name__}"
    return f"{name} ok"


def ask_blocking(port):
    client, seen = blocking.InferenceServerClient(f"127.0.0.1:{port}"), []
    for name, call in list_calls(blocking, client).items():
        try:
            seen.append(describe(name, call()))
        except Exception as exc:
            seen.append(describe(name, exc))
    return seen


async def ask_asynchronous(port, **more):
    seen = []
    async with asynchronous.InferenceServerClient(f"127.0.0.1:{port}") as client:
        for name, call in list_calls(asynchronous, client).items():
            try:
                seen.append(describe(name, await call(**more)))
            except Exception as exc:
                seen.append(describe(name, exc))
    return seen


async def main():
    global coding
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    for coding in COMPRESS:
        for name, asking in (
            ("blocking", asyncio.to_thread(ask_blocking, port)),
            ("asyncio", ask_asynchronous(port)),
            ("asyncio, identity", ask_asynchronous(port, headers={"Accept-Encoding": "identity"})),
        ):
            accepted.clear()
            seen = await asking
            print(f"{coding}, {name}: accepts {', '.join(sorted(accepted))}: {'; '.join(seen)}")
    await runner.cleanup()


asyncio.run(main())
PY
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  "tritonclient[http]==2.73.0" aiohttp==3.14.5 geventhttpclient==2.6.1 brotli==1.2.1
timeout 60 "$work/venv/bin/python" "$work/ask.py" > "$work/seen"
cat "$work/seen"
diff "$work/seen" - <<'LINES' || { echo "tritonclient behaves otherwise now" >&2; exit 1; }
gzip, blocking: accepts nothing: metadata ok; infer ok; error [404] unknown model
gzip, asyncio: accepts gzip, deflate, br: metadata UnicodeDecodeError; infer ok; error InferenceServerException
gzip, asyncio, identity: accepts identity: metadata ok; infer ok; error [404] unknown model
br, blocking: accepts nothing: metadata ok; infer ok; error [404] unknown model
br, asyncio: accepts gzip, deflate, br: metadata UnicodeDecodeError; infer InferenceServerException; error InferenceServerException
br, asyncio, identity: accepts identity: metadata ok; infer ok; error [404] unknown model
LINES
