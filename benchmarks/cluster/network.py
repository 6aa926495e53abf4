"""Hosts on one machine: network namespaces on two bridges, or, without root, addresses of the loopback interface.

Each host has a front address, for agents and readers, and a back address, for NATS. A host that is cut off stays up:
its packets are dropped without a sign, as by a switch that failed. Needs `ip` and root; the fallback cannot cut.
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

FRONT, BACK = "f", "b"
_OURS = re.compile(r"sd(\d+)[-fb]")
"""The names of namespaces and bridges, with the process that made them."""


class NetworkError(Exception):
    """A network cannot be made on this machine."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host: where it is reached, and what a command begins with that runs on it."""

    name: str
    front: str
    back: str
    prefix: tuple[str, ...] = ()


class Network(Protocol):
    """Hosts that can be cut off."""

    can_cut: bool
    """Whether `cut` works; else a fault that needs it stops the process instead."""
    description: str

    def add_host(self, name: str) -> Host:
        """Make a host; at most 200."""
        ...

    def cut(self, host: Host, *, from_nats_only: bool) -> None:
        """Cut a host off, from NATS alone or from all."""
        ...

    def join(self, host: Host) -> None:
        """End a cut."""
        ...

    def close(self) -> None:
        """Remove all hosts."""
        ...


class LoopbackNetwork:
    """Hosts that are addresses of the loopback interface."""

    can_cut = False
    description = "addresses of the loopback interface (namespaces need root and ip)"

    def __init__(self) -> None:
        self._hosts = 0

    def add_host(self, name: str) -> Host:
        """Make a host."""
        self._hosts += 1
        third = os.getpid() % 250 + 1  # two networks on one machine do not meet
        address = f"127.77.{third}.{self._hosts}"
        return Host(name=name, front=address, back=address)

    def cut(self, host: Host, *, from_nats_only: bool) -> None:
        """Raise `NetworkError`: packets to the loopback interface cannot be dropped without root."""
        raise NetworkError(f"{host.name} cannot be cut off on the loopback interface")

    def join(self, host: Host) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class NamespaceNetwork:
    """Hosts that are network namespaces; the process that makes it is on both bridges."""

    can_cut = True
    description = "network namespaces on two bridges"

    def __init__(self) -> None:
        remove_leftovers()
        pid = os.getpid()
        self._tag = f"sd{pid}"
        self._subnet = f"10.{200 + pid % 50}"
        self._hosts: list[str] = []
        for kind, third in ((FRONT, 0), (BACK, 1)):
            bridge = self._tag + kind
            run_ip("link", "add", bridge, "type", "bridge")
            run_ip("address", "add", f"{self._subnet}.{third}.1/24", "dev", bridge)
            run_ip("link", "set", bridge, "up")

    def add_host(self, name: str) -> Host:
        """Make a namespace with an interface on each bridge."""
        number = len(self._hosts) + 2
        namespace = f"{self._tag}-{name}"
        run_ip("netns", "add", namespace)
        self._hosts.append(name)
        run_ip("-n", namespace, "link", "set", "lo", "up")
        for kind, third in ((FRONT, 0), (BACK, 1)):
            port = self._find_port(name, kind)
            run_ip("link", "add", port, "type", "veth", "peer", "name", f"eth{kind}", "netns", namespace)
            run_ip("link", "set", port, "master", self._tag + kind, "up")
            run_ip("-n", namespace, "address", "add", f"{self._subnet}.{third}.{number}/24", "dev", f"eth{kind}")
            run_ip("-n", namespace, "link", "set", f"eth{kind}", "up")
        front, back = (f"{self._subnet}.{third}.{number}" for third in (0, 1))
        return Host(name=name, front=front, back=back, prefix=("ip", "netns", "exec", namespace))

    def cut(self, host: Host, *, from_nats_only: bool) -> None:
        """Take the host's interfaces from their bridges."""
        for kind in (BACK,) if from_nats_only else (BACK, FRONT):
            run_ip("link", "set", self._find_port(host.name, kind), "nomaster")

    def join(self, host: Host) -> None:
        """Put the host's interfaces on their bridges again."""
        for kind in (BACK, FRONT):
            run_ip("link", "set", self._find_port(host.name, kind), "master", self._tag + kind)

    def close(self) -> None:
        """Remove the namespaces and bridges; their processes must have ended."""
        _remove(f"sd{os.getpid()}")

    def _find_port(self, name: str, kind: str) -> str:
        return f"{self._tag}{kind}{self._hosts.index(name)}"


def open_network() -> Network:
    """Make a network of namespaces where this machine allows it, else one on the loopback interface."""
    if os.geteuid() == 0 and shutil.which("ip") is not None:
        with contextlib.suppress(NetworkError):
            return NamespaceNetwork()
    return LoopbackNetwork()


def run_ip(*arguments: str) -> str:
    """Run `ip` and return its output; raises `NetworkError`."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NetworkError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def remove_leftovers() -> None:
    """Remove the namespaces and bridges of processes that were killed before they could."""
    for tag in set(_list_tags()):
        with contextlib.suppress(NetworkError):
            if not os.path.exists(f"/proc/{tag[2:]}"):
                _remove(tag)


def _list_tags() -> Iterator[str]:
    for line in [*run_ip("netns", "list").splitlines(), *run_ip("-o", "link", "show", "type", "bridge").splitlines()]:
        if (found := _OURS.search(line)) is not None:
            yield f"sd{found[1]}"


def _remove(tag: str) -> None:
    for line in run_ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(f"{tag}-"):
            run_ip("netns", "delete", name)  # with it both ends of its links
    for kind in (FRONT, BACK):
        with contextlib.suppress(NetworkError):
            run_ip("link", "delete", tag + kind)
