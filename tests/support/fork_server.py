"""A process that has imported the daemon, and forks one for each that a test starts: 0.2 s of CPU time, not 1.0 s.

Runs as a program; `forked_processes.py` talks to it. No thread runs here, so a fork copies a whole process.
"""

import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

import streamd.server.daemon
import streamd.server.start  # noqa: F401 - what a daemon imports; its inference runtime starts a thread, so it is not here
from streamd.core.mapping.mapping import RuleMapping
from streamd.rule_sets import MappingSettings, load_rule_sets

MAX_REQUEST_BYTES = 2**18


@dataclass(frozen=True, kw_only=True)
class ForkedProgram:
    """What a child becomes."""

    arguments: list[str]
    """Of Python: `-m MODULE` or `-c CODE`, and the program's own."""
    environment: dict[str, str]
    folder: str
    output: int
    """The descriptor that becomes standard output."""
    errors: int
    """The descriptor that becomes standard error."""

    def run(self) -> None:
        """Become this program, as if an interpreter had just started it; ends by `SystemExit`, or returns."""
        os.dup2(self.output, 1)
        os.dup2(self.errors, 2)
        os.close(self.output)
        os.close(self.errors)
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.orig_argv[:] = [sys.executable, *self.arguments]
        kind, source, *sys.argv[1:] = self.arguments
        sys.argv[0] = kind
        if kind == "-m":
            runpy.run_module(source, run_name="__main__", alter_sys=True)
        else:
            exec(compile(source, "<string>", "exec"), {"__name__": "__main__"})


class ForkServer:
    """Forks a program for each message on its socket, and reports the exit status of each."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._reports: dict[int, int] = {}
        """By process id: the descriptor that its process id and exit status are written to."""
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def run(self) -> ForkedProgram | None:
        """Serve until the socket is closed; returns `None`, and in each child the program that it is to run."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._woken in ready:
                    self._woken.recv(4_096)
                    self._report_ended()
                if self._requests in ready:
                    message, descriptors, _, _ = socket.recv_fds(self._requests, MAX_REQUEST_BYTES, 3)
                    if not message:
                        self._kill_all()
                        return None
                    if (program := self._fork(message, *descriptors)) is not None:
                        return program

    def _fork(self, message: bytes, output: int, errors: int, report: int) -> ForkedProgram | None:
        pid = os.fork()
        if pid == 0:
            self._close()
            os.close(report)
            return ForkedProgram(**json.loads(message), output=output, errors=errors)
        os.close(output)
        os.close(errors)
        os.write(report, b"%d\n" % pid)
        self._reports[pid] = report
        return None

    def _report_ended(self) -> None:
        for pid, report in list(self._reports.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with suppress(BrokenPipeError):  # no test waits for it any more
                    os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))
                os.close(report)
                del self._reports[pid]

    def _kill_all(self) -> None:
        """End what still runs: the tests that started it were ended, and nobody else will."""
        for pid in self._reports:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is no other process

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (self._requests, self._wake, self._woken):
            each.close()
        for report in self._reports.values():
            os.close(report)


def fill_caches() -> None:
    """Read and compile the ready-made rules, as each daemon would: a third of what its start takes."""
    rule_sets = load_rule_sets(MappingSettings())
    RuleMapping(rule_sets, [rule.feature or name for each in rule_sets for name, rule in each.rules.items()])


def main() -> None:
    """Serve the socket whose descriptor is the argument."""
    fill_caches()
    gc.freeze()  # so that no collection in a child copies what all share
    server = ForkServer(socket.socket(fileno=int(sys.argv[1])))
    program = server.run()
    if program is not None:
        program.run()


if __name__ == "__main__":
    main()
