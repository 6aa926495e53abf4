"""TensorRT's progress monitor (10 and later) as one job of ours; Ctrl-C ends the build between two steps."""

from __future__ import annotations

from typing import Any

from streamd.tools.engine.plan.library import TensorRt
from streamd.tools.engine.progress import Progress


def make_monitor(library: TensorRt, progress: Progress, name: str) -> Any:
    """A monitor for one build, or None where this TensorRT has none; call `finish` after the build."""
    base = getattr(library.module, "IProgressMonitor", None)
    if base is None:
        return None

    class Monitor(base):  # type: ignore[misc, valid-type, unused-ignore]
        """Counts the steps of all phases: phases nest, and more of them come to be known as it goes."""

        def __init__(self) -> None:
            super().__init__()
            self.interrupted: BaseException | None = None
            self.steps: dict[str, int] = {}
            self.done: dict[str, int] = {}
            self.job = progress.job(name, 0)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._tell()

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.done[phase_name] = step + 1
            return self._tell()

        def phase_finish(self, phase_name: str) -> None:
            self.done[phase_name] = self.steps.get(phase_name, 0)
            self._tell()

        def _tell(self) -> bool:
            # An exception must not cross TensorRT's own frames: it is raised in `finish`.
            try:
                self.job.to(sum(self.done.values()), sum(self.steps.values()))
            except BaseException as exc:
                self.interrupted = exc
            return self.interrupted is None

        def finish(self) -> None:
            """End the job; raises what interrupted it."""
            self.job.close()
            if self.interrupted is not None:
                raise self.interrupted

    return Monitor()
