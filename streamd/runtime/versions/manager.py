"""Versions change while the daemon serves: a new one is loaded and warmed beside the old, then the batches go to it.

A load that fails changes nothing. The version before stays warm for a while, so that the way back takes no loading.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from streamd.core.scheduling.costs import CostTable
from streamd.runtime.lanes.deployment import Deployment, Model
from streamd.runtime.lanes.opening import OpenBackend, OpenedBackend
from streamd.runtime.lanes.pipeline import Pipeline
from streamd.runtime.lanes.supervisor import LaneSupervisor

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Source:
    """A version that can be loaded: its model, what opens its lanes, and what lets go of its folder at the end."""

    model: Model
    open_backend: OpenBackend
    release: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        """What its forecasts call their model."""
        return self.model.text


class Loaded:
    """A version whose lanes are warm."""

    def __init__(self, source: Source, deployment: Deployment) -> None:
        self.source = source
        self.deployment = deployment
        self.keeper: LaneSupervisor
        self.owner: Reloader
        self.opened: OpenedBackend
        self.costs: CostTable

    @property
    def name(self) -> str:
        """What its forecasts call their model."""
        return self.source.name


class MakeKeeper(Protocol):
    """Makes the keeper of a deployment, with the limits that hold for all of them."""

    def __call__(
        self, deployment: Deployment, open_backend: OpenBackend, changed: Callable[[OpenedBackend, CostTable], None]
    ) -> LaneSupervisor:
        """Return a keeper that has opened nothing yet."""
        ...


MakeKeeperOf = Callable[[Pipeline], MakeKeeper]


class Reloader:
    """The versions of one pipeline that are loaded: at most one serves, and one is kept warm.

    `changed` hears whenever what serves changes, or its backend does.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        make_keeper: MakeKeeper,
        *,
        keep_warm_seconds: float,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.current: Loaded | None = None
        self.previous: Loaded | None = None
        """What served before and is warm still; none once its time is over."""
        self.keep_warm_seconds = keep_warm_seconds
        self._pipeline = pipeline
        self._make_keeper = make_keeper
        self._changed = changed
        self._loaded: set[Loaded] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None

    async def load(self, source: Source) -> Loaded:
        """Open and warm a version's lanes beside those that serve; `switch` or `discard` is next.

        Raises `BackendUnavailableError` with every reason, and then nothing of it is left and its folder let go of.
        """
        loaded = Loaded(source, Deployment(source.model))
        loaded.owner = self

        def opened(backend: OpenedBackend, costs: CostTable) -> None:
            loaded.opened, loaded.costs = backend, costs
            if loaded is loaded.owner.current:
                loaded.owner._changed()

        loaded.keeper = self._make_keeper(loaded.deployment, source.open_backend, opened)
        try:
            await loaded.keeper.open()
        except BaseException:
            loaded.keeper.close()
            source.release()
            raise
        self._loaded.add(loaded)
        loaded.keeper.watch()
        return loaded

    def switch(self, loaded: Loaded) -> None:
        """Let a loaded version serve from the next batch on: one step, in which nothing is lost or waits.

        What served before stays warm for `keep_warm_seconds`; what served before that goes.
        """
        if loaded is self.current:
            return
        former = self.current
        self._pipeline.switch(loaded.deployment)
        self.current = loaded
        if self.previous not in (None, loaded):
            self._expire()
        self.previous = former
        if former is not None:
            log.info("engine_switched", engine=loaded.name, before=former.name)
            self._keep_warm()
        self._changed()

    def claim(self, loaded: Loaded) -> bool:
        """Keep a loaded version until `switch` or `discard`, however long; false if it has no lane to serve with."""
        if loaded is self.current:
            return True
        if not loaded.deployment.workers:
            return False
        if loaded is self.previous and self._expiry is not None:
            self._expiry.cancel()
        return True

    def discard(self, loaded: Loaded) -> None:
        """Let go of a loaded version that does not serve after all; one that is kept warm stays for its while."""
        if loaded is self.previous:
            self._keep_warm()
        elif loaded is not self.current:
            self._begin(self._retire(loaded))

    def switch_off(self, nothing: Deployment) -> None:
        """Let nothing serve any more, and go of what does: `nothing` has no lanes."""
        former, self.current = self.current, None
        self._pipeline.switch(nothing)
        if former is not None:
            self._begin(self._retire(former))

    def give(self, loaded: Loaded, other: "Reloader") -> None:
        """Give a loaded version, none of whose lanes runs anything, to another pipeline; `switch` is next there."""
        if loaded is self.current:
            self.current = None
            self._pipeline.switch(Deployment(loaded.source.model))
        self._loaded.discard(loaded)
        self._pipeline.hand_over(loaded.deployment, other._pipeline)
        loaded.keeper.move(other._pipeline)
        loaded.owner = other
        other._loaded.add(loaded)

    async def retired(self) -> None:
        """Wait until every version that is to go is gone, with its lanes' threads."""
        while self._retiring:
            await asyncio.gather(*self._retiring, return_exceptions=True)

    def close(self) -> None:
        """Stop watching and mending all that is loaded, and let go of the folders; the lanes are the pipeline's."""
        if self._expiry is not None:
            self._expiry.cancel()
        for task in self._retiring:
            task.cancel()
        for loaded in self._loaded:
            loaded.keeper.close()
            loaded.source.release()
        self._loaded.clear()

    # ------------------------------------------------------------ letting go
    def _keep_warm(self) -> None:
        """Keep the version before from now on for its while."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self.keep_warm_seconds > 0:
            self._expiry = asyncio.get_running_loop().call_later(self.keep_warm_seconds, self._expire)
        else:
            self._expire()

    def _expire(self) -> None:
        """The version before is not kept warm any longer."""
        loaded, self.previous = self.previous, None
        if loaded is not None:
            self._begin(self._retire(loaded))
            self._changed()

    async def _retire(self, loaded: Loaded) -> None:
        await loaded.keeper.retire()
        self._loaded.discard(loaded)
        loaded.source.release()
        log.info("engine_let_go", engine=loaded.name)

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
