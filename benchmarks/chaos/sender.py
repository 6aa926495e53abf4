"""Sends rows of some servers through every fault, until each sample was answered, and notes what was acknowledged."""

import asyncio
import time
from dataclasses import dataclass, field
from random import Random

from benchmarks.chaos.history import CELLS, CellWrite, ServerHistory
from benchmarks.chaos.journal import Journal
from benchmarks.chaos.links import LinkLostError, RefusedError, SampleLink, send_torn
from benchmarks.chaos.model import CONTRACT, make_value

RETRIED_CODES = {"storage", "too_far_ahead", "draining", "too_busy", "unavailable", "rate_limited", "no_capacity"}
"""The codes of refusals that end by themselves: the disk has space again, the clock is right again."""

RETRY_PAUSE_SECONDS = 0.1
BACK_STEPS = 4
"""How far behind the newest row amendments lie."""

SKIPPED, HALVED, AMENDED = 0.06, 0.1, 0.1
"""Shares of the rows that are never sent, that come in two samples, and after which an earlier row is amended."""

COLUMNS = 0.5
"""Share of the frames that are columns. They have no amendments, so that their rows are written together."""


@dataclass(slots=True)
class PendingSample:
    """A sample that was not answered yet."""

    server: int
    step: int
    values: dict[int, float]
    writes: list[CellWrite] = field(default_factory=list)


class ChaosSender:
    """The sender of some servers, given by number; it has one frame in flight."""

    def __init__(
        self,
        link: SampleLink,
        port: int,
        servers: dict[int, ServerHistory],
        *,
        first_step: int,
        journal: Journal,
        random: Random,
    ) -> None:
        self.is_stopping = False
        self.torn_shares: list[float] = []
        """The next frame is sent in these parts first, each on a connection that is reset."""
        self.waits = 0
        """Whether the frame in flight was refused or lost so far, as a count."""
        self.link = link
        self._port = port
        self._servers = servers
        self._steps = dict.fromkeys(servers, first_step)
        self._variants: dict[tuple[int, int], int] = {}
        self._second_halves: list[PendingSample] = []
        self._is_columns = False
        """Whether the frame in flight has columns."""
        self._journal = journal
        self._random = random

    async def run(self, pause_seconds: float) -> None:
        """Send frames until `is_stopping`, then a last whole row of each server."""
        while not self.is_stopping:
            await self._deliver(self._make_frame())
            await asyncio.sleep(pause_seconds)
        await self._deliver(self._second_halves)
        for server in self._steps:
            self._steps[server] += 1
        await self._deliver([self._make_sample(server, step, CELLS) for server, step in self._steps.items()])
        await self.link.close()

    # ------------------------------------------------------------ samples
    def _make_frame(self) -> list[PendingSample]:
        samples, self._second_halves = self._second_halves, []
        self._is_columns = self._random.random() < COLUMNS
        for server in self._servers:
            self._steps[server] += 1
            step, chance = self._steps[server], self._random.random()
            if chance < SKIPPED:
                continue
            if chance < SKIPPED + HALVED:
                samples.append(self._make_sample(server, step, CELLS[:2]))
                self._second_halves.append(self._make_sample(server, step, CELLS[2:]))
                continue
            samples.append(self._make_sample(server, step, CELLS))
            if not self._is_columns and self._random.random() < AMENDED:
                samples.append(self._make_amendment(server, step - self._random.randint(1, BACK_STEPS)))
        return samples

    def _make_sample(self, server: int, step: int, features: range, variant: int = 0) -> PendingSample:
        values = {feature: make_value(server, step, feature, variant) for feature in features}
        return PendingSample(server, step, values)

    def _make_amendment(self, server: int, step: int) -> PendingSample:
        variant = self._variants[server, step % CONTRACT.context_length] = (
            self._variants.get((server, step % CONTRACT.context_length), 0) + 1
        )
        feature = self._random.choice(CELLS)
        return self._make_sample(server, step, range(feature, feature + 1), variant)

    # ------------------------------------------------------------ delivery
    async def _deliver(self, samples: list[PendingSample]) -> None:
        """Send samples until each of them was acknowledged."""
        pending = list(samples)
        for sample in pending:
            sample.writes = self._servers[sample.server].begin_write(sample.step, sample.values, time.monotonic())
        self.waits = 0
        while pending:
            payload = self.link.encode(self._make_body(pending))
            for share in self.torn_shares:
                await send_torn(self._port, self.link, payload, share)
            self.torn_shares = []
            try:
                answer = await self.link.exchange(payload)
            except LinkLostError:
                self._journal.count("frames_lost")
            except RefusedError as error:
                self._journal.count(f"frames_refused {error.code}")
                if error.code not in RETRIED_CODES:
                    self._journal.report("unexpected_refusal", str(error))
            else:
                pending = self._take_answer(pending, answer["errors"], answer["accepted"])
            if pending:
                self.waits += 1
                await asyncio.sleep(RETRY_PAUSE_SECONDS)

    def _make_body(self, pending: list[PendingSample]) -> dict[str, object]:
        if not self._is_columns:
            return {"samples": [self._describe(sample) for sample in pending]}
        cells = [[sample.values.get(feature) for feature in CELLS] for sample in pending]
        columns = {
            "servers": [self._servers[sample.server].name for sample in pending],
            "time": [sample.step * CONTRACT.step_seconds for sample in pending],
            "features": [CONTRACT.features[feature] for feature in CELLS],
            "values": cells if self._random.random() < 0.5 else self.link.make_values(cells),
        }
        return {"columns": columns}

    def _describe(self, sample: PendingSample) -> dict[str, object]:
        values = {CONTRACT.features[feature]: value for feature, value in sample.values.items()}
        time_seconds = sample.step * CONTRACT.step_seconds
        return {"server": self._servers[sample.server].name, "time": time_seconds, "values": values}

    def _take_answer(
        self, pending: list[PendingSample], errors: list[dict[str, object]], accepted: int
    ) -> list[PendingSample]:
        """Note what was acknowledged; returns what must be sent again."""
        now = time.monotonic()
        refused = {error["index"]: error for error in errors}
        if accepted + len(refused) != len(pending):
            self._journal.report("wrong_ack", f"{accepted} accepted and {len(refused)} listed of {len(pending)}")
            return pending
        again: list[PendingSample] = []
        servers_again = set[int]()
        for index, sample in enumerate(pending):
            if (error := refused.get(index)) is None and sample.server in servers_again:
                again.append(sample)  # once more, behind an earlier sample of its server, so that the order stays
                continue
            if error is None:
                for write in sample.writes:
                    write.acked_at = now
                self._journal.count("rows_acked")
                continue
            again.append(sample)
            servers_again.add(sample.server)
            self._journal.count(f"samples_refused {error['code']}")
            if error["code"] not in RETRIED_CODES:
                self._journal.report("unexpected_rejection", f"{self._describe(sample)}: {error}")
        return again
