"""Builds plans side by side, each batch size of each precision in a process of its own.

TensorRT's builder keeps one core busy and the GPU mostly idle (on an H200, six profiles of an LSTM took ten minutes of
one core). What comes of it is one file of several plans, each of which holds the network's weights.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamd.core.errors import BuildError
from streamd.inference.tensorrt.plan_file import pack_alternatives
from streamd.tools.engine.graph.onnx_graph import serialize_graph
from streamd.tools.engine.plan.builder import BuildSettings, BuiltPlan, Profile
from streamd.tools.engine.plan.maker import MadePlan, PreparedPlan
from streamd.tools.engine.plan.worker import JOB, PLAN, RESULT, BuildJob, BuildResult, GraphFile
from streamd.tools.engine.progress import Progress

COMMAND = (sys.executable, "-m", "streamd.tools.engine.plan.worker")
TOLD_LINES = 6


@dataclass(frozen=True)
class _Done:
    """A job's plan, when it began and ended, and what it said."""

    content: bytes
    began: float
    ended: float
    result: BuildResult


class BuildPool:
    """At most `jobs` builds at a time on one device; `tell` gets their logs, each whole, in the order they end in."""

    def __init__(
        self,
        settings: BuildSettings,
        jobs: int,
        progress: Progress,
        tell: Callable[[str], None],
        *,
        device: int = 0,
        verbose: bool = False,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.settings, self.jobs, self.progress = settings, jobs, progress
        self._tell, self._device, self._verbose, self._command = tell, device, verbose, command
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._over = False

    def make(self, prepared: Sequence[PreparedPlan]) -> Iterator[MadePlan]:
        """Build all of them and yield each, in order, once it is there; raises `BuildError`.

        Where one fails, or the caller goes on without the rest, every process is ended.
        """
        with tempfile.TemporaryDirectory(prefix="streamd-build-") as name, ThreadPoolExecutor(self.jobs) as threads:
            try:
                yield from self._make(Path(name), threads, prepared)
            finally:
                self._end()
                threads.shutdown(cancel_futures=True)

    def _make(self, folder: Path, threads: ThreadPoolExecutor, prepared: Sequence[PreparedPlan]) -> Iterator[MadePlan]:
        total = len(prepared) * len(self.settings.profiles)
        with self.progress.job(f"building {total} plans, {self.jobs} at a time", total) as told:
            finished = iter(range(1, total + 1))

            def run(job: BuildJob, place: Path) -> _Done:
                done = self._run(job, place)
                with self._lock:
                    for line in done.result.log:
                        self._tell(line)
                    self.progress.line(f"{job.name}: {done.ended - done.began:.0f} s")
                    told.to(next(finished))
                return done

            waiting: list[list[Future[_Done]]] = []
            for each in prepared:
                graphs = self._write_graphs(folder, each)
                jobs = [self._job(each.precision, profile, graphs) for profile in self.settings.profiles]
                places = [folder / f"{each.precision}-{number}" for number in range(len(jobs))]
                waiting.append([threads.submit(run, job, place) for job, place in zip(jobs, places, strict=True)])
            pending = {future for futures in waiting for future in futures}
            for each, futures in zip(prepared, waiting, strict=True):
                while pending.intersection(futures):
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()  # the first that fails, of whichever precision, ends it all
                yield each.made(_together([future.result() for future in futures]), len(futures))

    def _write_graphs(self, folder: Path, prepared: PreparedPlan) -> tuple[GraphFile, ...]:
        files = []
        for number, graph in enumerate(prepared.graphs):
            name = f"{prepared.precision}-{number}.onnx"
            (folder / name).write_bytes(serialize_graph(graph.model, name))
            files.append(GraphFile(f"../{name}", graph.strongly_typed, graph.flags, graph.pinned))
        return tuple(files)

    def _job(self, precision: str, profile: Profile, graphs: tuple[GraphFile, ...]) -> BuildJob:
        settings = self.settings
        sizes = (profile.minimum, profile.optimum, profile.maximum)
        batch = str(profile.maximum) if profile.minimum == profile.maximum else f"{profile.minimum}-{profile.maximum}"
        cache = settings.timing_cache
        return BuildJob(
            f"{precision}, batch {batch}",
            graphs,
            sizes,
            settings.workspace_bytes,
            settings.version_compatible,
            settings.tf32,
            self._device,
            str(cache.resolve()) if cache is not None and cache.is_file() else None,
            settings.optimization_level,
            self._verbose,
        )

    def _run(self, job: BuildJob, place: Path) -> _Done:
        place.mkdir()
        if job.timing_cache is not None:  # each writes its own: what is given is only read
            own = place / "timing-cache"
            own.write_bytes(Path(job.timing_cache).read_bytes())
            job = msgspec.structs.replace(job, timing_cache=str(own))
        (place / JOB).write_bytes(msgspec.json.encode(job))
        began = time.monotonic()
        status, said = self._wait([*self._command, str(place)])
        if status != 0:
            lines = said.splitlines()[-TOLD_LINES:]
            how = f"ended with {status}" if status > 0 else f"was ended by signal {-status}"
            raise BuildError(f"{job.name}: the builder {how}: {'; '.join(lines) or 'it said nothing'}")
        result = msgspec.json.decode((place / RESULT).read_bytes(), type=BuildResult)
        return _Done((place / PLAN).read_bytes(), began, time.monotonic(), result)

    def _wait(self, command: list[str]) -> tuple[int, str]:
        with self._lock:
            if self._over:
                raise BuildError("the build was ended")
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # an interrupt is this process's to hear, which then ends all of them
            )
            self._running.add(process)
        try:
            _, said = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        return process.returncode, said

    def _end(self) -> None:
        with self._lock:
            self._over = True
            for process in self._running:
                process.kill()


def _together(done: list[_Done]) -> BuiltPlan:
    """One file of all plans; `seconds` are from the first one's beginning to the last one's end."""
    first = done[0].result
    return BuiltPlan(
        pack_alternatives([each.content for each in done]),
        max(each.ended for each in done) - min(each.began for each in done),
        first.layers,
        first.pinned_layers,
        tuple(warning for each in done for warning in each.result.warnings),
    )
