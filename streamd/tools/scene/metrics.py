"""Reads the metrics and JSON documents that programs serve over HTTP."""

import re
from typing import Any

import aiohttp
import msgspec

from streamd.tools.loadtest.child import HOST
from streamd.tools.loadtest.errors import UnreachableError

ANSWER_SECONDS = 10.0


async def fetch_metrics(session: aiohttp.ClientSession, port: int) -> str:
    """Return `/metrics` of a program on this machine. Raises `UnreachableError`."""
    return (await _fetch(session, f"http://{HOST}:{port}/metrics")).decode(errors="replace")


async def fetch_json(session: aiohttp.ClientSession, url: str) -> Any:
    """Return a JSON document. Raises `UnreachableError`."""
    try:
        return msgspec.json.decode(await _fetch(session, url))
    except msgspec.DecodeError as error:
        raise UnreachableError(f"{url}: {error}; expected JSON") from error


def sum_metric(text: str, name: str, **labels: str) -> float:
    """Return the sum of a metric over its series, of those that have these labels; 0 if it has none."""
    total = 0.0
    for line in re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? .*$", text, re.MULTILINE):
        if all(f'{label}="{value}"' in line for label, value in labels.items()):
            total += float(line.rsplit("} ", 1)[-1].removeprefix(f"{name} ").split()[0])
    return total


async def _fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)) as response:
            body = await response.read()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise UnreachableError(f"{url}: {str(error) or 'no answer'}") from error
    if response.status != 200:
        raise UnreachableError(f"{url}: HTTP {response.status}: {body[:200].decode(errors='replace')}; expected 200")
    return body
