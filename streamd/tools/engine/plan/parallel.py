"""Builds plans in parallel: one process for each batch size of each precision.

This module starts processes and collects their files; `worker` builds. TensorRT's builder uses one core and leaves the
GPU mostly idle (on an H200, six profiles of an LSTM took ten minutes of one core). The result is one file with several
plans, each of which holds the weights of the network.
"""

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

REPORTED_LINES = 6
"""The number of last lines of a failed process that an error quotes."""


@dataclass(frozen=True)
class _FinishedJob:
    """The plan of a job, its beginning and end (seconds of the monotonic clock), and its result."""

    content: bytes
    began: float
    ended: float
    result: BuildResult


class BuildPool:
    """Runs at most `jobs` builds at a time on one device.

    `log` is called with the lines of each build when it ends, never with lines of two builds mixed.
    """

    def __init__(
        self,
        settings: BuildSettings,
        jobs: int,
        progress: Progress,
        log: Callable[[str], None],
        *,
        device: int = 0,
        verbose: bool = False,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.settings, self.jobs, self.progress = settings, jobs, progress
        self._log, self._device, self._verbose, self._command = log, device, verbose, command
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._is_stopped = False

    def make_plans(self, prepared: Sequence[PreparedPlan]) -> Iterator[MadePlan]:
        """Build all plans and yield each, in the given order, as soon as it is ready; raises `BuildError`.

        If one fails, or the caller closes the iterator early, every process is killed.
        """
        with tempfile.TemporaryDirectory(prefix="streamd-build-") as name, ThreadPoolExecutor(self.jobs) as threads:
            try:
                yield from self._make_plans(Path(name), threads, prepared)
            finally:
                self._kill_all()
                threads.shutdown(cancel_futures=True)

    def _make_plans(
        self, folder: Path, threads: ThreadPoolExecutor, prepared: Sequence[PreparedPlan]
    ) -> Iterator[MadePlan]:
        total = len(prepared) * len(self.settings.profiles)
        with self.progress.start_job(f"building {total} plans, {self.jobs} at a time", total) as progress_job:
            finished = iter(range(1, total + 1))

            def run_job(job: BuildJob, place: Path) -> _FinishedJob:
                done = self._run_job(job, place)
                with self._lock:
                    for line in done.result.log:
                        self._log(line)
                    self.progress.print_line(f"{job.name}: {done.ended - done.began:.0f} s")
                    progress_job.advance_to(next(finished))
                return done

            submitted: list[list[Future[_FinishedJob]]] = []
            for each in prepared:
                graphs = self._write_graphs(folder, each)
                jobs = [self._describe_job(each.precision, profile, graphs) for profile in self.settings.profiles]
                places = [folder / f"{each.precision}-{number}" for number in range(len(jobs))]
                submitted.append([threads.submit(run_job, job, place) for job, place in zip(jobs, places, strict=True)])
            pending = {future for futures in submitted for future in futures}
            for each, futures in zip(prepared, submitted, strict=True):
                while pending.intersection(futures):
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()  # The first failure, of any precision, ends all builds.
                yield each.add_plan(_combine_plans([future.result() for future in futures]), len(futures))

    def _write_graphs(self, folder: Path, prepared: PreparedPlan) -> tuple[GraphFile, ...]:
        files = []
        for number, graph in enumerate(prepared.graphs):
            name = f"{prepared.precision}-{number}.onnx"
            (folder / name).write_bytes(serialize_graph(graph.model, name))
            files.append(
                GraphFile(
                    path=f"../{name}", strongly_typed=graph.strongly_typed, flags=graph.flags, pinned=graph.pinned
                )
            )
        return tuple(files)

    def _describe_job(self, precision: str, profile: Profile, graphs: tuple[GraphFile, ...]) -> BuildJob:
        settings = self.settings
        sizes = (profile.minimum, profile.optimum, profile.maximum)
        batch = str(profile.maximum) if profile.minimum == profile.maximum else f"{profile.minimum}-{profile.maximum}"
        cache = settings.timing_cache
        return BuildJob(
            name=f"{precision}, batch {batch}",
            graphs=graphs,
            profile=sizes,
            workspace_bytes=settings.workspace_bytes,
            version_compatible=settings.version_compatible,
            tf32=settings.tf32,
            device=self._device,
            timing_cache=str(cache.resolve()) if cache is not None and cache.is_file() else None,
            optimization_level=settings.optimization_level,
            verbose=self._verbose,
        )

    def _run_job(self, job: BuildJob, place: Path) -> _FinishedJob:
        place.mkdir()
        if job.timing_cache is not None:  # Builds run at the same time, so each writes a copy of the given file.
            own = place / "timing-cache"
            own.write_bytes(Path(job.timing_cache).read_bytes())
            job = msgspec.structs.replace(job, timing_cache=str(own))
        (place / JOB).write_bytes(msgspec.json.encode(job))
        began = time.monotonic()
        status, errors = self._run_process([*self._command, str(place)])
        if status != 0:
            lines = errors.splitlines()[-REPORTED_LINES:]
            how = f"ended with {status}" if status > 0 else f"was ended by signal {-status}"
            raise BuildError(f"{job.name}: the builder {how}: {'; '.join(lines) or 'it wrote no reason'}")
        result = msgspec.json.decode((place / RESULT).read_bytes(), type=BuildResult)
        return _FinishedJob((place / PLAN).read_bytes(), began, time.monotonic(), result)

    def _run_process(self, command: list[str]) -> tuple[int, str]:
        """Run a command to its end; return its status and standard error. Raises `BuildError` if all were killed."""
        with self._lock:
            if self._is_stopped:
                raise BuildError("the build was ended")
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                # Ctrl-C must reach this process only, which then kills the others.
                start_new_session=True,
            )
            self._running.add(process)
        try:
            _, errors = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        return process.returncode, errors

    def _kill_all(self) -> None:
        """Kill every process and prevent later ones from starting."""
        with self._lock:
            self._is_stopped = True
            for process in self._running:
                process.kill()


def _combine_plans(done: list[_FinishedJob]) -> BuiltPlan:
    """Return one file of all plans; `seconds` are from the beginning of the first build to the end of the last."""
    first = done[0].result
    return BuiltPlan(
        content=pack_alternatives([each.content for each in done]),
        seconds=max(each.ended for each in done) - min(each.began for each in done),
        layers=first.layers,
        pinned_layers=first.pinned_layers,
        warnings=tuple(warning for each in done for warning in each.result.warnings),
    )
