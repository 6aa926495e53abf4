"""Presence of the other processes of the daemon, by their runs. Pure.

A process hears of the end of another one from the supervisor, and of its start from the process itself: on two ways,
so that either may come first. The runs of a process are counted, so that neither is taken for that of another run.
"""

from collections.abc import Iterable, Mapping

AWAY = -1
"""In place of the run of a process of which none is there."""


class Presence:
    """The newest run of each other process that said it is there, and that has not ended.

    `runs` are those that are known from the start, by the number of the process.
    """

    def __init__(self, numbers: Iterable[int], runs: Mapping[int, int] | None = None) -> None:
        self._runs = dict.fromkeys(numbers, AWAY) | dict(runs or {})
        self._lost = {number: run - 1 if run != AWAY else AWAY for number, run in self._runs.items()}

    @property
    def here(self) -> list[int]:
        """The numbers of the processes that are there."""
        return [number for number, run in self._runs.items() if run != AWAY]

    @property
    def away(self) -> list[int]:
        """The numbers of the others."""
        return [number for number, run in self._runs.items() if run == AWAY]

    def is_here(self, number: int) -> bool:
        """Whether a process is there."""
        return self._runs[number] != AWAY

    def meet(self, number: int, run: int) -> tuple[bool, bool]:
        """Note that a run of a process says that it is there.

        Returns whether it is: its end may have been heard before. And whether it is another run than the known one.
        """
        if run <= self._lost[number]:
            return False, False
        is_other = self._runs[number] != run
        self._runs[number] = run
        if is_other:
            self._lost[number] = run - 1
        return True, is_other

    def lose(self, number: int, run: int) -> bool:
        """Note that a run of a process, and so each earlier one, has ended; returns whether that one was there."""
        self._lost[number] = max(self._lost[number], run)
        if self._runs[number] == AWAY or self._runs[number] > run:
            return False
        self._runs[number] = AWAY
        return True
