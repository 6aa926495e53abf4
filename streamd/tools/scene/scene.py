"""Runs the scene: starts the daemon and the agents, kills the daemon, starts it again, and checks the rows.

Every process that was started is ended in every case.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from streamd.tools.loadtest.errors import NothingError, UnreachableError
from streamd.tools.scene.agents import (
    ALL_AGENTS,
    NODE_EXPORTER_PACKAGE,
    PrometheusAgent,
    SceneAgent,
    SceneSite,
    SentCounts,
)
from streamd.tools.scene.daemon import SceneDaemon
from streamd.tools.scene.engine import make_short_step_version
from streamd.tools.scene.metrics import fetch_metrics
from streamd.tools.scene.packages import FetchError, PackageFolder, fetch_glances
from streamd.tools.scene.processes import SceneError, SceneProcess, find_lasting_port, stop_processes
from streamd.tools.scene.rows import RowCheck, SceneRow, check_rows, find_lost_values
from streamd.tools.scene.truth import fetch_truth, find_largest_difference
from streamd.tools.scene.watcher import ForecastWatcher, WriteLine

ROW_POLL_SECONDS = 0.25
START_SECONDS = 20.0
LARGEST_ROW_DIFFERENCE = 1e-4
"""Rows are float32; a sample that was lost or counted twice makes a difference of more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneOptions:
    """The agents of a scene, and the lengths of its parts."""

    agents: tuple[str, ...] = tuple(agent.name for agent in ALL_AGENTS)
    step_seconds: int = 5
    rows_before: int = 8
    """Rows of each agent before the daemon is killed."""
    away_seconds: float = 30.0
    """The time between the kill and the next start."""
    rows_after: int = 8
    """Rows of each agent after its return."""
    min_context_rows: int = 4
    patience_seconds: float = 110.0
    """The limit on each of the two waits for rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentResult:
    """The result for one agent."""

    agent: SceneAgent
    sent: SentCounts
    check: RowCheck
    emptied: list[int]
    """Steps whose rows lost values that they had before the kill."""
    unmeasured: set[int]
    """Steps for which the agent itself lacks samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneResult:
    """The outcome of a scene."""

    step_seconds: int
    killed_at: float
    back_at: float
    agents: list[AgentResult]
    difference: tuple[float, str] | None
    """The largest difference between the rows of Prometheus and its database, and where; `None` without Prometheus."""
    compared_rows: int
    forecasts: Counter[str]
    """Forecasts that the subscriber received, by server."""
    forecasts_after: Counter[str]
    """Those among them that came after the daemon's return."""
    counts: dict[str, dict[str, int]]
    """What the daemon counted, by protocol."""
    failures: dict[str, str] = field(default_factory=dict)
    """Agents that ended too early, with the end of their log."""

    def list_away_steps(self) -> range:
        """Return the steps in which the daemon was away at some time."""
        return range(int(self.killed_at // self.step_seconds), int(self.back_at // self.step_seconds) + 1)

    def list_faults(self) -> list[str]:
        """Return the faults: rows that a lossless agent lacks, and rows that differ from Prometheus' database."""
        faults = []
        for each in self.agents:
            if each.agent.is_lossless and not each.check.is_whole:
                faults.append(f"{each.agent.server}: {describe_gaps(each.check, self.step_seconds)}")
            if each.emptied:
                faults.append(f"{each.agent.server}: {len(each.emptied)} rows from before the kill have lost values")
        if self.difference is not None and self.difference[0] > LARGEST_ROW_DIFFERENCE:
            faults.append(f"{PrometheusAgent.server}: {self.difference[1]}")
        return faults


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenePlace:
    """The folders of a scene."""

    cache: Path
    """Packages, kept for the next scene."""
    engines: Path
    folder: Path
    """Everything of this run."""


class Scene:
    """One scene, from its agents to its result."""

    def __init__(self, options: SceneOptions, place: ScenePlace, write_line: WriteLine) -> None:
        self.unavailable: dict[str, str] = {}
        """Agents that cannot run here, each with the reason."""
        self._options = options
        self._place = place
        self._write_line = write_line
        self._packages = PackageFolder(place.cache)
        self._glances = place.cache / "glances/bin/glances"
        self._failures: dict[str, str] = {}
        self._processes: dict[str, SceneProcess] = {}

    def fetch_agents(self) -> list[SceneAgent]:
        """Get the packages of the agents; returns those that can run. Raises `NothingError` if none can."""
        found = []
        for agent in (kind() for kind in ALL_AGENTS if kind.name in self._options.agents):
            reasons = self._packages.fetch_packages(agent.packages)
            with_glances = {}
            if agent.needs_glances:
                try:
                    self._glances = fetch_glances(self._place.cache)
                except FetchError as error:
                    with_glances["glances"] = str(error)
            if reasons := reasons | with_glances:
                self.unavailable[agent.name] = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            else:
                found.append(agent)
        if not found:
            raise NothingError(
                "no agent can run here:\n"
                + "\n".join(f"  {name}: {reason}" for name, reason in self.unavailable.items())
            )
        return found

    def describe_agent(self, agent: SceneAgent) -> str:
        """Return the packages of an agent with their versions."""
        versions = {name: self._packages.read_version(name) for name in agent.packages if not name.startswith("lib")}
        return ", ".join(f"{name} {version}" for name, version in versions.items()) or "Glances of PyPI"

    async def run(self, agents: Sequence[SceneAgent]) -> SceneResult:
        """Play the scene. Raises `SceneError` if the daemon fails, and ends every process in any case."""
        try:
            async with aiohttp.ClientSession() as session:
                return await self._play(session, agents)
        finally:
            # The agents end first, because some of them still send their last samples.
            daemon = self._processes.pop("streamd", None)
            stop_processes(list(self._processes.values()))
            stop_processes([daemon] if daemon is not None else [])

    async def _play(self, session: aiohttp.ClientSession, agents: Sequence[SceneAgent]) -> SceneResult:
        options, folder = self._options, self._place.folder
        site = self._make_site(agents)
        engines = folder / "engines"
        make_short_step_version(self._place.engines, engines, options.step_seconds)
        daemon = SceneDaemon(
            session, folder, site.streamd_port, engines=engines, min_context_rows=options.min_context_rows
        )
        self._processes["streamd"] = daemon.process
        self._write_line(f"  streamd at {site.streamd_url} is ready after {await daemon.start():.1f} s")
        await self._start_agents(session, site, agents)

        contract = (await daemon.client.fetch_status()).contract
        shown = next((agent.server for agent in agents if agent.is_lossless), agents[0].server)
        watcher = ForecastWatcher(daemon.url, contract, shown, self._write_line)
        watching = asyncio.create_task(watcher.run())
        try:
            await self._wait_rows(daemon, agents, lambda rows: len(rows) >= options.rows_before)
            before = {agent.server: await daemon.fetch_rows(agent.server) for agent in agents}
            killed_at, back_at = await self._kill_daemon(daemon)
            forecasts = watcher.forecasts.copy()
            last_step = int(back_at // options.step_seconds) + options.rows_after
            # The increase of a counter in a step is known once a sample of the next step has come.
            await self._wait_rows(daemon, agents, lambda rows: max(rows, default=0) > last_step)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        await daemon.collect_counts()
        results = [await self._collect_result(session, site, daemon, agent, before, last_step) for agent in agents]
        difference, compared = await self._compare(session, site, results)
        return SceneResult(
            step_seconds=options.step_seconds,
            killed_at=killed_at,
            back_at=back_at,
            agents=results,
            difference=difference,
            compared_rows=compared,
            forecasts=watcher.forecasts,
            forecasts_after=watcher.forecasts - forecasts,
            counts=daemon.list_counts(),
            failures=self._failures,
        )

    async def _collect_result(
        self,
        session: aiohttp.ClientSession,
        site: SceneSite,
        daemon: SceneDaemon,
        agent: SceneAgent,
        before: Mapping[str, Mapping[int, SceneRow]],
        last_step: int,
    ) -> AgentResult:
        rows = await daemon.fetch_rows(agent.server)
        sent, unmeasured = SentCounts(), set[int]()
        try:
            unmeasured = await agent.find_unmeasured(session, site, self._options.step_seconds, last_step)
            sent = await agent.count_sent(session, site, self._processes[agent.name].read_log())
        except UnreachableError as error:
            sent = SentCounts(remark=f"it does not say: {error}")
        return AgentResult(
            agent=agent,
            sent=sent,
            check=check_rows(agent.server, rows, last_step, unmeasured),
            emptied=find_lost_values(before[agent.server], rows),
            unmeasured=unmeasured,
        )

    def _make_site(self, agents: Sequence[SceneAgent]) -> SceneSite:
        names = ["streamd", "exporter", *(agent.name for agent in agents)]
        ports: dict[str, int] = {}
        for name in names:
            port = find_lasting_port()
            while port in ports.values():
                port = find_lasting_port()
            ports[name] = port
        return SceneSite(
            folder=self._place.folder,
            packages=self._packages.root,
            library_path=self._packages.make_library_path(),
            glances=self._glances,
            streamd_port=ports["streamd"],
            exporter_port=ports["exporter"],
            agent_ports=ports,
        )

    async def _start_agents(
        self, session: aiohttp.ClientSession, site: SceneSite, agents: Sequence[SceneAgent]
    ) -> None:
        if any(agent.needs_exporter for agent in agents):
            address = f"--web.listen-address=127.0.0.1:{site.exporter_port}"
            command = [str(site.packages / "usr/bin" / NODE_EXPORTER_PACKAGE), address, "--collector.tcpstat"]
            exporter = self._processes["node_exporter"] = SceneProcess("node_exporter", command, site.folder)
            exporter.start()
            give_up_at = time.monotonic() + START_SECONDS
            while True:
                with suppress(UnreachableError):
                    await fetch_metrics(session, site.exporter_port)
                    break
                exporter.check_running()
                if time.monotonic() > give_up_at:
                    raise SceneError(f"node_exporter does not answer\n{exporter.read_log_tail()}")
                await asyncio.sleep(ROW_POLL_SECONDS)
        for agent in agents:
            agent.write_files(site)
            process = SceneProcess(agent.name, agent.make_command(site), site.folder, agent.make_environment(site))
            self._processes[agent.name] = process
            process.start()

    async def _wait_rows(
        self, daemon: SceneDaemon, agents: Sequence[SceneAgent], is_enough: Callable[[Mapping[int, SceneRow]], bool]
    ) -> None:
        """Wait until every agent that runs has enough rows, or the patience is over."""
        waiting = {agent.name: agent for agent in agents}
        give_up_at = time.monotonic() + self._options.patience_seconds
        while time.monotonic() < give_up_at:
            daemon.process.check_running()
            for agent in list(waiting.values()):
                self._note_failure(agent)
                if agent.name in self._failures or is_enough(await daemon.fetch_rows(agent.server)):
                    del waiting[agent.name]
            if not waiting:
                return
            await asyncio.sleep(ROW_POLL_SECONDS)
        self._write_line(f"  no rows came in time from {', '.join(waiting)}")

    def _note_failure(self, agent: SceneAgent) -> None:
        process = self._processes[agent.name]
        if not process.is_running and agent.name not in self._failures:
            self._failures[agent.name] = process.read_log_tail()
            self._write_line(f"  {agent.name} has ended; {process.read_log_tail()}")

    async def _kill_daemon(self, daemon: SceneDaemon) -> tuple[float, float]:
        """Kill the daemon and start it again; returns when it was killed and when it was ready again."""
        away = self._options.away_seconds
        await daemon.kill()
        killed_at = time.time()
        pause = f"for {away:g} s" if away else "and it is started again at once"
        self._write_line(f"  {_format_clock(killed_at)}  streamd is killed (SIGKILL) {pause}; the agents go on")
        await asyncio.sleep(away)
        seconds = await daemon.start()
        back_at = time.time()
        self._write_line(f"  {_format_clock(back_at)}  streamd is back, ready {seconds:.1f} s after its start")
        return killed_at, back_at

    async def _compare(
        self, session: aiohttp.ClientSession, site: SceneSite, results: Sequence[AgentResult]
    ) -> tuple[tuple[float, str] | None, int]:
        """Compare the rows of Prometheus with its database; returns the largest difference and the number of rows."""
        for each in results:
            if isinstance(each.agent, PrometheusAgent) and each.check.first_step is not None:
                steps = set(range(each.check.first_step, each.check.last_step + 1)) - each.unmeasured
                port = site.agent_ports[each.agent.name]
                truth = await fetch_truth(session, port, self._options.step_seconds, sorted(steps))
                return find_largest_difference(each.check.rows, truth), len(steps)
        return None, 0


def describe_gaps(check: RowCheck, step_seconds: int) -> str:
    """Return what the rows of a server lack, in words."""
    if not check.expected:
        return "no whole row at all"
    parts = []
    if check.missing:
        times = _format_steps(check.missing, step_seconds)
        parts.append(f"{len(check.missing)} of {check.expected} rows missing ({times})")
    if check.incomplete:
        counts = Counter(name for lacks in check.incomplete.values() for name in lacks)
        lacking = ", ".join(f"{name} in {count}" for name, count in counts.most_common(2))
        more = f" and {len(counts) - 2} more" if len(counts) > 2 else ""
        times = _format_steps(list(check.incomplete), step_seconds)
        parts.append(f"{len(check.incomplete)} incomplete ({times}; without {lacking}{more})")
    if check.absurd:
        parts.append(f"absurd values: {', '.join(check.absurd[:3])}")
    return "; ".join(parts) or "nothing is missing"


def _format_steps(steps: Sequence[int], step_seconds: int) -> str:
    """Return the times at which steps begin, neighbours as a range."""
    ranges: list[list[int]] = []
    for step in steps:
        if ranges and step == ranges[-1][-1] + 1:
            ranges[-1].append(step)
        else:
            ranges.append([step])
    shown = []
    for each in ranges[:3]:
        first, last = (_format_clock(step * step_seconds) for step in (each[0], each[-1]))
        shown.append(first if first == last else f"{first} to {last}")
    return ", ".join(shown) + (", ..." if len(ranges) > 3 else "")


def _format_clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
