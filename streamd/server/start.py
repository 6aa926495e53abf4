"""Starts what a process is: a daemon, the supervisor of several processes, or one of those.

Imports only what this process needs: a supervisor has no use for an inference runtime.
"""

import gc
import sys
from collections.abc import Callable

import structlog

from streamd.server.logs import configure_logs
from streamd.server.process import ReadConfig, Runnable, run_daemon


def serve(read: ReadConfig, part: str = "") -> int:
    """Run this process to its end; returns its exit status.

    `part` is the plan of a process that a supervisor has started. Raises `ConfigError` if the settings cannot be used.
    """
    import uvloop

    make = _make_part(read, part) if part else _make_whole(read)

    async def run() -> int:
        return await run_daemon(make())

    # A lane whose batch is done waits at most this long for the interpreter: at the usual 5 ms lanes were idle.
    sys.setswitchinterval(1e-3)
    status: int = uvloop.run(run())
    gc.freeze()  # at the end Python would visit all series: 0.8 s for 220,000, in place of 0.05 s
    return status


def _make_whole(read: ReadConfig) -> Callable[[], Runnable]:
    config = read()
    configure_logs(config.log)
    if config.server.workers > 1:
        from streamd.server.workers.memory import make_memory
        from streamd.server.workers.supervisor import ProcessSupervisor

        return lambda: ProcessSupervisor(config, make_memory, read)
    from streamd.server.daemon import Daemon

    return lambda: Daemon(config, read)


def _make_part(read: ReadConfig, part: str) -> Callable[[], Runnable]:
    from streamd.server.workers.plan import decode_plan, read_shared_settings

    plan = decode_plan(part)
    config = read_shared_settings(plan.settings)
    configure_logs(config.log)
    structlog.contextvars.bind_contextvars(part=plan.name)
    if plan.role == "worker":
        from streamd.server.workers.worker import WorkerProcess

        return lambda: WorkerProcess(config, plan)
    from streamd.server.workers.engine_process import EngineProcess

    return lambda: EngineProcess(config, read, plan)
