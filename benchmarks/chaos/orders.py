"""Orders to the lanes of the daemon: a small file that the chaos run replaces and each batch reads.

A file and not a pipe, so that orders outlive a daemon that is killed, and no thread of the daemon waits for them.
"""

import os
from pathlib import Path
from typing import Literal

import msgspec

LaneOrder = Literal["hang", "lose", "fail"]
"""A lane gives no answer, is lost with each batch, or fails each batch."""


class LaneOrders(msgspec.Struct, kw_only=True):
    """The orders in force; without any, all lanes are healthy."""

    lanes: dict[str, LaneOrder] = {}
    """By the index of the lane, as text."""
    device_lost: bool = False
    """Whether the device is gone: each lane is lost, and none can be made."""
    latency_seconds: float = 0.0
    """The time that each batch takes."""


_decoder = msgspec.json.Decoder(LaneOrders)


def read_orders(path: Path) -> LaneOrders:
    """Return the orders in force."""
    return _decoder.decode(path.read_bytes())


def write_orders(path: Path, orders: LaneOrders) -> None:
    """Replace the orders, atomically."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(orders))
    os.replace(fresh, path)
