"""One decoder under one stream of bodies: what is checked of each body, and the log."""

import base64
import gc
import json
import time
import tracemalloc
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from random import Random
from typing import Any, TextIO

from benchmarks.fuzzing.checks import (
    MAX_SKIP_REASONS,
    CheckingSink,
    Finding,
    RunCost,
    describe_error,
    drain,
    read_resident_bytes,
    reset_peak,
)
from benchmarks.fuzzing.mutations import BodyShape, mutate_body
from benchmarks.fuzzing.targets import FuzzTarget
from streamd.core.mapping.series import SourceSeries
from streamd.protocols.json_items import MAX_LENIENT_BYTES
from streamd.server.memory import trim_heap

MAX_OUTCOMES = 3_000
"""Kinds of outcomes that are counted apart."""

MAX_CORPUS = 3_000
MAX_CORPUS_BYTES = 100_000
PROGRESS_SECONDS = 30.0
BODIES_BETWEEN_PEAKS = 50
BODIES_BETWEEN_TRACES = 500
LARGE_BODY_BYTES = 65_536

PEAK_BYTES, PEAK_FACTOR = 64 * 2**20, 64
"""A body may take so many bytes, and so many times its size."""

MAX_GROWTH_BYTES = 512 * 2**20
"""Of the process between its first thousand bodies and its end: the kept corpus and series are part of it."""


class FuzzSession:
    """The run of one target."""

    def __init__(self, target: FuzzTarget, seed: int, minutes: float, log: TextIO) -> None:
        self.corpus = [*target.list_seeds(), b""]
        self.has_finding = False
        self.ends_at = time.monotonic() + 60 * minutes
        self._target = target
        self._seed = seed
        self._log = log
        self._inputs = 0
        self._began = time.monotonic()
        self._shown_at = self._began
        self._outcomes: Counter[str] = Counter()
        self._reasons: set[str] = set()
        self._warm: dict[Hashable, SourceSeries] = {}
        self._warm_again: dict[Hashable, SourceSeries] = {}
        self._slowest: dict[str, Any] = {"seconds": 0.0}
        self._slowest_slice: dict[str, Any] = {"seconds": 0.0}
        self._highest: dict[str, Any] = {"bytes": 0}
        self._enclosed = self._compared = self._traced = 0
        self._resident_at_first = 0

    # ------------------------------------------------------------ the run
    def run_mutations(self) -> None:
        """Mutate the corpus until the time is over or there is a finding; a body with a new outcome joins it."""
        random = Random(f"{self._seed} {self._target.name}")
        for body in list(self.corpus):
            self.take_body(body)
        while not self.is_over():
            self.take_body(self.mutate(random))

    def mutate(self, random: Random) -> bytes:
        """Return a mutation of the corpus."""
        return mutate_target_body(self._target, self.corpus, random)

    def is_over(self) -> bool:
        """Whether the time is over or there is a finding."""
        return self.has_finding or time.monotonic() >= self.ends_at

    def take_body(self, body: bytes) -> None:
        """Run the decoder over a body and check what must hold; a finding is logged with the body."""
        self._inputs += 1
        try:
            if self._run(body) and len(body) <= MAX_CORPUS_BYTES:
                if len(self.corpus) >= MAX_CORPUS:
                    del self.corpus[choose_free_place(self._inputs, len(self.corpus))]
                self.corpus.append(body)
        except Finding as finding:
            self.has_finding = True
            self._write("finding", message=str(finding), cause=repr(finding.__cause__), **_save(body))
        if time.monotonic() - self._shown_at > PROGRESS_SECONDS:
            self._shown_at = time.monotonic()
            self._write("progress", inputs=self._inputs, outcomes=len(self._outcomes), corpus=len(self.corpus))

    def _run(self, body: bytes) -> bool:
        """Decode a body in several ways; returns whether it has an outcome that is new."""
        is_measured = self._inputs % BODIES_BETWEEN_PEAKS == 0 or len(body) >= LARGE_BODY_BYTES
        before = read_resident_bytes() if is_measured and reset_peak() else 0
        sink, cost = CheckingSink(self._warm), RunCost()
        refusal = drain(lambda: self._target.decode(body, sink), cost)
        if before:
            self._check_peak(body, read_resident_bytes("VmHWM") - before, "resident")
        self._note_cost(body, cost)
        if not self._target.can_end and any(value != value for _, _, value in sink.points):
            raise Finding("a value is NaN, and this protocol says of no series that it ends")
        if refusal is not None and not isinstance(refusal, self._target.refusals):
            raise Finding(f"refused with {type(refusal).__name__}: {refusal}") from refusal
        if self._target.is_stateless and self._inputs % 3 == 0:
            self._compare(body)
        if self._inputs % 4 == 0:
            self._run_enclosed(body)
        if self._inputs % BODIES_BETWEEN_TRACES == 0:
            self._trace(body)
        if self._inputs == 1_000:
            self._resident_at_first = read_resident_bytes()
        return self._count_outcomes(sink, refusal)

    def _count_outcomes(self, sink: CheckingSink, refusal: Exception | None) -> bool:
        outcome = "taken" if refusal is None else f"refused {describe_error(refusal)}"
        found = {outcome, *sink.rejected, *(f"skipped: {reason}" for reason in sink.skipped)}
        found.add(f"points: 2**{len(sink.points).bit_length()}")
        self._reasons |= sink.skipped.keys()
        if len(self._reasons) > MAX_SKIP_REASONS:
            raise Finding(f"over {MAX_SKIP_REASONS} reasons for skipping, expected a few fixed texts")
        is_new = any(each not in self._outcomes for each in found) and len(self._outcomes) < MAX_OUTCOMES
        for each in found:
            self._outcomes[each if is_new or each in self._outcomes else "(others)"] += 1
        return is_new

    # ------------------------------------------------------------ checks
    def _compare(self, body: bytes) -> None:
        """Decode a body where its series are known and where they are new: the points must be the same."""
        known, new = CheckingSink(self._warm_again), CheckingSink()
        refusals = [drain(lambda: self._target.decode(body, known), RunCost())]
        refusals.append(drain(lambda: self._target.decode(body, new), RunCost()))
        if known.list_points() != new.list_points():
            raise Finding(f"{_find_difference(known, new)}")
        if [type(each) for each in refusals[:1]] != [type(each) for each in refusals[1:]]:
            raise Finding(f"refused with {refusals[0]!r} if its series are known, with {refusals[1]!r} if not")
        self._compared += 1

    def _run_enclosed(self, body: bytes) -> None:
        """Put a body as a damaged part between good ones, which must be taken."""
        enclosed = self._target.enclose(body)
        if enclosed is None:
            return
        whole, expected = enclosed
        if len(whole) > MAX_LENIENT_BYTES:
            return  # such a body must be strict JSON, and is refused as a whole
        sink = CheckingSink(self._warm)
        refusal = drain(lambda: self._target.decode(whole, sink), RunCost())
        if refusal is not None or sink.count_sentinels() < expected:
            found = sink.count_sentinels()
            message = f"beside this part {found} of {expected} good points are taken ({refusal!r:.300})"
            raise Finding(f"{message}; the whole body: {base64.b64encode(whole[:200_000]).decode()}")
        self._enclosed += 1

    def _trace(self, body: bytes) -> None:
        """Measure the peak of Python's own memory, which is slow."""
        tracemalloc.start()
        try:
            drain(lambda: self._target.decode(body, CheckingSink()), RunCost())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self._traced += 1
        self._check_peak(body, peak, "traced")

    def _check_peak(self, body: bytes, peak: int, kind: str) -> None:
        if peak > self._highest["bytes"]:
            self._highest = {"bytes": peak, "body_bytes": len(body), "kind": kind, **_save(body)}
        if peak > PEAK_BYTES + PEAK_FACTOR * len(body):
            raise Finding(f"a body of {len(body)} bytes took {peak / 2**20:.0f} MiB ({kind})")

    def _note_cost(self, body: bytes, cost: RunCost) -> None:
        if cost.seconds > self._slowest["seconds"]:
            self._slowest = {"seconds": round(cost.seconds, 4), "body_bytes": len(body), **_save(body)}
        if cost.slice_seconds > self._slowest_slice["seconds"]:
            self._slowest_slice = {"seconds": round(cost.slice_seconds, 4), "body_bytes": len(body), **_save(body)}

    # ------------------------------------------------------------ the log
    def write_start(self, engine: str) -> None:
        """Log the start."""
        self._write("start", target=self._target.name, seed=self._seed, engine=engine, seeds=len(self.corpus))

    def write_end(self) -> dict[str, Any]:
        """Log the end, and return the summary."""
        gc.collect()
        trim_heap()
        growth = read_resident_bytes() - self._resident_at_first if self._resident_at_first else 0
        if growth > MAX_GROWTH_BYTES and not self.has_finding:
            self.has_finding = True
            self._write("finding", message=f"the process grew by {growth / 2**20:.0f} MiB")
        summary = {
            "target": self._target.name,
            "seconds": round(time.monotonic() - self._began, 1),
            "inputs": self._inputs,
            "has_finding": self.has_finding,
            "outcome_kinds": len(self._outcomes),
            "corpus": len(self.corpus),
            "compared": self._compared,
            "enclosed": self._enclosed,
            "traced": self._traced,
            "process_growth_bytes": growth,
            "peak": self._highest,
            "slowest": self._slowest,
            "slowest_slice": self._slowest_slice,
        }
        self._write("end", **summary, outcomes=dict(self._outcomes.most_common()))
        return summary

    def _write(self, event: str, **values: Any) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._log.write(json.dumps({"time": stamp, "event": event, **values}) + "\n")
        self._log.flush()


def mutate_target_body(target: FuzzTarget, corpus: list[bytes], random: Random) -> bytes:
    """Return a mutation of a corpus; in bodies of the collector the first byte chooses the shape of the others."""
    if target.name != "collector":
        return mutate_body(corpus, target.shape, random)
    from benchmarks.fuzzing.collector import mutate_behind_first_byte  # it opens a state folder

    chosen = random.choice(corpus)
    shape = mutate_behind_first_byte(chosen)
    if not chosen or shape is BodyShape.BYTES:
        return mutate_body(corpus, BodyShape.BYTES, random)
    same = [chosen[1:], *(each[1:] for each in random.sample(corpus, min(8, len(corpus))) if each[:1] == chosen[:1])]
    return chosen[:1] + mutate_body(same, shape, random)


def choose_free_place(inputs: int, size: int) -> int:
    """Return the place in a full corpus that is given up: one of the older half, in turn."""
    return inputs % (size // 2)


def _save(body: bytes) -> dict[str, str]:
    return {"body": base64.b64encode(body).decode()}


def _find_difference(known: CheckingSink, new: CheckingSink) -> str:
    first, second = known.list_points(), new.list_points()
    if len(first) != len(second):
        return f"{len(first)} points if the series are known, {len(second)} if they are new"
    place = next(place for place, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])
    return f"point {place} differs: {first[place]!r:.600} if its series is known, {second[place]!r:.600} if it is new"


def open_log(folder: Path, name: str) -> TextIO:
    """Open the log of a target."""
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{name}.jsonl").open("w", encoding="ascii")
