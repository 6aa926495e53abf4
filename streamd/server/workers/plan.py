"""The plan that the supervisor gives each process of the daemon, and the settings that all of them share.

The plan is an argument of the process and has no secret. The settings are in memory that it inherits: a process that is
started again must have those of the others, whatever the file says by then.
"""

import os
from typing import Literal

import msgspec

from streamd.server.config import Config

ENGINE_SOCKET_NAME = "engine.sock"
"""The socket in the daemon's folder on which the engine process answers the workers."""


EXIT_STATE_REPLACED = 76
"""The exit status of an engine process that must replace the state, which workers have open."""


class PartPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a daemon. The numbers of descriptors are those that it inherits."""

    role: Literal["engine", "worker"]
    number: int
    """Workers count from 0; the engine has the number after the last one."""
    workers: int
    settings: int
    """The descriptor of the settings."""
    block: int
    """The descriptor of the shared memory."""
    bells: tuple[int, ...]
    """The descriptors of all doorbells, by the number of the process."""
    folder: str
    """The folder of the sockets between the processes; no other user may enter it."""
    addresses: tuple[tuple[str, int], ...] = ()
    """The addresses on which every worker listens; empty if it inherits sockets."""
    sockets: tuple[int, ...] = ()
    """The descriptors of listening sockets: those of systemd for a worker, that of the workers for the engine."""
    run: int = 0
    """Counts the starts of this process."""
    worker_runs: tuple[int, ...] | None = None
    """The run of each worker now, -1 if none runs; `None` if no worker uses the state, so that it may be repaired."""

    @property
    def name(self) -> str:
        """The name of this process in logs."""
        return self.role if self.role == "engine" else f"worker {self.number}"

    @property
    def engine_socket(self) -> str:
        """The path of the socket on which the engine process answers."""
        return os.path.join(self.folder, ENGINE_SOCKET_NAME)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All descriptors that the process inherits."""
        return (self.settings, self.block, *self.bells, *self.sockets)


def encode_plan(plan: PartPlan) -> str:
    """Return a plan as an argument."""
    return msgspec.json.encode(plan).decode()


def decode_plan(argument: str) -> PartPlan:
    """Return the plan in an argument; raises `msgspec.ValidationError`, or `msgspec.DecodeError`, if it is none."""
    return msgspec.json.decode(argument, type=PartPlan)


def share_settings(config: Config, descriptor: int | None = None) -> int:
    """Write settings into memory that other processes inherit; returns its descriptor, by default that of new memory.

    MessagePack, because JSON has no infinity.
    """
    if descriptor is None:
        descriptor = os.memfd_create("streamd-settings", os.MFD_CLOEXEC)
    content = msgspec.msgpack.encode(config)
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))
    return descriptor


def read_shared_settings(descriptor: int) -> Config:
    """Return the settings that `share_settings` wrote."""
    return msgspec.msgpack.decode(os.pread(descriptor, os.fstat(descriptor).st_size, 0), type=Config)
