#!/usr/bin/env bash
# aiohttp 3.14.5 keeps an application with middlewares alive after its cleanup, with all that its handlers hold.
#
# The chain of middlewares around a handler is built once and kept in an lru_cache of the module web_app, whose key is
# the handler and its applications. So an application that has answered one request through a middleware is not
# collected after AppRunner.cleanup(), nor is what its handlers close over or what it holds under its keys: 20 servers
# that were started and stopped one after another in a process (a test suite, a reload) leave 20 states behind. The
# cache is the process's, not the application's, and is bounded by handlers, not by bytes: the first is released when
# 1,024 other handlers have been called. Without middlewares, without a request, or with requests that end in 404 only,
# nothing stays. Version 3.10.5, the last one without the cache, keeps nothing. What the state holds must be released in
# on_cleanup; it is not enough to drop the application.
#
# Seen with aiohttp 3.10.5 and 3.14.5, CPython 3.11. Prints what each version does, and fails if that changes. Takes
# half a minute; only loopback is used.
set -euo pipefail
python=${PYTHON:-python3.11}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/serve.py" <<'PY'
import asyncio
import gc
import weakref

import aiohttp
from aiohttp import web


class State:
    """Stands for what a handler needs, such as a model or a pool of connections."""


STATE = web.AppKey("STATE", State)


@web.middleware
async def pass_on(request, handler):
    return await handler(request)


def close_over(state):
    async def handle(request):
        return web.Response(text=type(state).__name__)

    return handle


async def look_up(request):
    return web.Response(text=type(request.app[STATE]).__name__)


async def serve(app, requests):
    """Serve an application for these requests, given as paths and the status expected, and clean it up."""
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with aiohttp.ClientSession() as session:
        for path, status in requests:
            async with session.get(f"http://{host}:{port}{path}") as answer:
                assert answer.status == status, (path, answer.status)
                await answer.read()
    await runner.cleanup()


async def serve_state(middlewares, requests, by_key=False):
    """Serve an application that holds a state, and return a weak reference to the state."""
    state = State()
    app = web.Application(middlewares=middlewares)
    app[STATE] = state if by_key else State()
    app.router.add_get("/", look_up if by_key else close_over(state))
    await serve(app, requests)
    return weakref.ref(state)


async def serve_others(count):
    """Call as many handlers of one other application."""
    app = web.Application(middlewares=[pass_on])
    for number in range(count):
        app.router.add_get(f"/{number}", close_over(None))
    await serve(app, [(f"/{number}", 200) for number in range(count)])


def count_alive(references):
    gc.collect()
    return sum(reference() is not None for reference in references)


async def report(kind, *arguments):
    references = [await serve_state(*arguments) for _ in range(20)]
    print(f"{kind}: {count_alive(references)} of 20 states alive")


async def main():
    await report("no middleware", [], [("/", 200)])
    await report("a middleware, no request", [pass_on], [])
    await report("a middleware, a request for another path", [pass_on], [("/other", 404)])
    await report("a middleware, a request, state in a closure", [pass_on], [("/", 200)])
    await report("a middleware, a request, state under a key", [pass_on], [("/", 200)], True)
    references = [await serve_state([pass_on], [("/", 200)])]
    await serve_others(1023)
    print(f"then 1023 other handlers called: {count_alive(references)} of 1 state alive")
    await serve_others(1)
    print(f"and one more: {count_alive(references)} of 1 state alive")


asyncio.run(main())
PY

expect() { # expect VERSION, the lines on standard input
  "$python" -m venv "$work/$1"
  "$work/$1/bin/python" -m pip install --quiet --disable-pip-version-check "aiohttp==$1"
  timeout 60 "$work/$1/bin/python" "$work/serve.py" > "$work/$1/seen"
  echo "aiohttp $1:" && sed 's/^/  /' "$work/$1/seen"
  diff "$work/$1/seen" - || { echo "aiohttp $1 behaves otherwise now" >&2; exit 1; }
}

expect 3.10.5 <<'LINES'
no middleware: 0 of 20 states alive
a middleware, no request: 0 of 20 states alive
a middleware, a request for another path: 0 of 20 states alive
a middleware, a request, state in a closure: 0 of 20 states alive
a middleware, a request, state under a key: 0 of 20 states alive
then 1023 other handlers called: 0 of 1 state alive
and one more: 0 of 1 state alive
LINES
expect 3.14.5 <<'LINES'
no middleware: 0 of 20 states alive
a middleware, no request: 0 of 20 states alive
a middleware, a request for another path: 0 of 20 states alive
a middleware, a request, state in a closure: 20 of 20 states alive
a middleware, a request, state under a key: 20 of 20 states alive
then 1023 other handlers called: 1 of 1 state alive
and one more: 0 of 1 state alive
LINES
