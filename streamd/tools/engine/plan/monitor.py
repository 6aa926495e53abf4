"""Shows the progress of a TensorRT build (10 and later); Ctrl-C ends the build between two steps.

This module only reports; it does not start builds.
"""

from typing import Any

from streamd.tools.engine.plan.library import TensorRt
from streamd.tools.engine.progress import Progress


def make_monitor(library: TensorRt, progress: Progress, name: str) -> Any:
    """Return a monitor for one build, or `None` if this TensorRT has none; call `finish` after the build."""
    base = getattr(library.module, "IProgressMonitor", None)
    if base is None:
        return None

    class Monitor(base):  # type: ignore[misc, valid-type, unused-ignore]
        """Counts the steps of all phases. Phases nest, and TensorRT announces more of them during the build."""

        def __init__(self) -> None:
            super().__init__()
            self.interrupted: BaseException | None = None
            self.steps: dict[str, int] = {}
            self.done: dict[str, int] = {}
            self.job = progress.start_job(name, 0)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._report()

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.done[phase_name] = step + 1
            return self._report()

        def phase_finish(self, phase_name: str) -> None:
            self.done[phase_name] = self.steps.get(phase_name, 0)
            self._report()

        def _report(self) -> bool:
            # An exception must not pass through TensorRT's own frames, so `finish` raises it later.
            try:
                self.job.advance_to(sum(self.done.values()), sum(self.steps.values()))
            except BaseException as exc:
                self.interrupted = exc
            return self.interrupted is None

        def finish(self) -> None:
            """End the job; raises the exception that interrupted it."""
            self.job.close()
            if self.interrupted is not None:
                raise self.interrupted

    return Monitor()
