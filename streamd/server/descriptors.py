"""File descriptors: raises the limit of this process, and leaves enough of them for all that is not a connection."""

import resource

import structlog

log = structlog.get_logger(__name__)

RESERVED_DESCRIPTORS = 256
"""For the state, the versions, devices, threads and connections whose TLS handshake is not complete."""


def limit_connections(wanted: int) -> int:
    """Raise the limit of descriptors as far as this process may; returns how many connections may be open.

    Fewer than `wanted` are possible only if the hard limit is lower; this is logged. Without it the kernel would refuse
    new connections when the descriptors are exhausted, and a file might not be opened.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        if raised > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    possible = count_possible_connections(soft)
    log.warning("connections_limited", max_connections=possible, wanted=wanted, descriptors=soft)
    return possible


def count_possible_connections(descriptors: int) -> int:
    """Return how many connections fit into a limit of descriptors: all but the reserve, or half of a low limit."""
    return max(descriptors - RESERVED_DESCRIPTORS, descriptors // 2, 1)
