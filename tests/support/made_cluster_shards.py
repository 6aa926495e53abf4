"""One shard at one node of the model: it reads its logs and appends to its chain, one request at a time.

Stands for what the daemon does with a shard, with the policies of `streamd/core/cluster/` and no others.
"""

from collections.abc import Callable
from dataclasses import dataclass

from streamd.core.cluster.chain_entries import ChainEntry, ChainGapError, FencedError
from streamd.core.cluster.forecast_chain import ChainState, ForecastChain
from tests.support.made_cluster_log import NaiveNetwork, NaiveStream, Row, Stored

PATIENCE = 4
"""Ticks after which a request without an answer is made again, or abandoned."""

CHUNK = 3
"""Entries that one request reads, so that much changes while a node loads; of rows, it reads one."""


@dataclass
class Request:
    """What a shard waits for the answer of."""

    send: Callable[[str], None]
    is_append: bool
    age: int = 0
    attempts: int = 1
    identity: str = ""


class ModelShard:
    """A shard that a node follows, and owns once `own` was called and its marker is in the chain."""

    def __init__(
        self, maker: str, network: NaiveNetwork, stream: NaiveStream, rows: list[Row], make_chain: type[ForecastChain]
    ) -> None:
        self._maker = maker
        self._network = network
        self._stream = stream
        self._rows = rows
        self._make_chain = make_chain
        self.is_closed = False
        self.has_failed = False
        """Whether it is fenced by a gap or a later owner."""
        self._fence = 0
        self._count = 0
        self._forget_orders: list[tuple[int, str]] = []
        self._newest: dict[str, Row] = {}
        self.rows_read = 0
        self.posted: dict[Row, str] = {}
        self._request: Request | None = None
        self._begin_loading()

    def _begin_loading(self) -> None:
        self.chain = self._make_chain()
        self.is_loading = True
        self._load_through = -1

    @property
    def is_caught_up(self) -> bool:
        """Whether it has read what there was."""
        return not self.is_loading and self.rows_read == len(self._rows)

    def own(self, fence: int) -> None:
        """Append the marker as soon as the chain is loaded."""
        self._fence = fence

    def close(self) -> None:
        """Stop; answers that are still to come change nothing."""
        self.is_closed = True
        self.chain.resign()

    # ------------------------------------------------------------ one step
    def step(self) -> None:
        """Do what is to do next, unless an answer is awaited."""
        if self.is_closed:
            return
        self._network.send(self._read_rows)
        request = self._request
        if request is not None:
            request.age += 1
            if request.age >= PATIENCE:
                self._lose_patience(request)
            return
        if self.is_loading or self.chain.must_read or (self.chain.state is ChainState.FOLLOWING and not self._fence):
            self._ask(self._read_chain, is_append=False)
        elif self.chain.state is ChainState.FENCED:
            self.has_failed = True
        elif self.chain.state is ChainState.OWNING:
            self._forecast()
        else:
            self._claim()

    def _lose_patience(self, request: Request) -> None:
        """Make an append again under its identity, then abandon it; make a read again at once."""
        if request.is_append and request.attempts < 2:
            request.attempts, request.age = 2, 0
            self._network.send(lambda: request.send(request.identity))
            return
        self._request = None
        if request.is_append:
            self.chain.doubt()

    def _ask(self, send: Callable[[str], None], *, is_append: bool) -> None:
        self._count += 1
        request = Request(send, is_append, identity=f"{self._maker} {self._count}")
        self._request = request
        self._network.send(lambda: request.send(request.identity))

    def _is_answer(self, identity: str) -> bool:
        """Whether an answer is to the request that is awaited; others come too late."""
        if self.is_closed or self._request is None or self._request.identity != identity:
            return False
        self._request = None
        return True

    # ------------------------------------------------------------ reading
    def _read_rows(self) -> None:
        after, rows = self.rows_read, self._rows[self.rows_read : self.rows_read + 1]
        self._network.send(lambda: self._take_rows(after, rows))

    def _take_rows(self, after: int, rows: list[Row]) -> None:
        if self.is_closed or after != self.rows_read:
            return
        for row in rows:
            self.rows_read += 1
            if row.step is None:
                self._newest.pop(row.server, None)
                self._forget_orders.append((self.rows_read, row.server))
            else:
                self._newest[row.server] = row

    def _read_chain(self, identity: str) -> None:
        last, entries = self._stream.last, self._stream.read(self.chain.position, CHUNK)
        self._network.send(lambda: self._take_chain(identity, last, entries))

    def _take_chain(self, identity: str, last: int, entries: list[Stored]) -> None:
        if not self._is_answer(identity):
            return
        try:
            if self.is_loading:
                self._load(last, entries)
            else:
                self._apply(last, entries)
        except ChainGapError:
            if self._fence:
                self.has_failed = True
            else:
                self._begin_loading()

    def _load(self, last: int, entries: list[Stored]) -> None:
        if self._load_through < 0:
            self._load_through = last
        for each in entries:
            self.chain.load(each.entry)
        if len(entries) < CHUNK or self.chain.position >= self._load_through:
            self.is_loading = False
            self.chain.finish_loading(self._load_through)

    def _apply(self, last: int, entries: list[Stored]) -> None:
        for each in entries:
            follows = self.chain.state is ChainState.FOLLOWING
            self._post((self.chain.follow if follows else self.chain.apply)(each.entry), each)
        if not entries and self.chain.must_read and self.chain.position < last:
            self.chain.lose_track()

    def _post(self, servers: list[str], stored: Stored) -> None:
        for server in servers:
            if server in stored.forecasts:
                row, maker = stored.forecasts[server]
                self.posted[row] = maker

    # ------------------------------------------------------------ appending
    def _claim(self) -> None:
        try:
            entry = self.chain.begin_claim(self._fence)
        except (FencedError, ChainGapError):
            self.has_failed = True
        else:
            self._append(entry, {})

    def _forecast(self) -> None:
        chain = self.chain
        if chain.needs_rows(self.rows_read):
            return
        if below := chain.purge_below:
            self._network.send(lambda: self._stream.purge(below))
        orders = [(at, server) for at, server in self._forget_orders if at > chain.forgot_rows]
        forgotten = [server for _, server in orders]
        rows = [row for row in self._newest.values() if row.step is not None]
        chosen = chain.select([(row.server, row.step or 0) for row in rows], forgotten)
        due = {row.server: row for row, is_new in zip(rows, chosen, strict=True) if is_new}
        if due or orders:
            steps = {server: row.step or 0 for server, row in due.items()}
            entry = chain.begin_batch(steps, forgotten, max((at for at, _ in orders), default=0))
            self._count += 1
            self._append(entry, {server: (row, f"{self._maker} {self._count}") for server, row in due.items()})
            return
        record = chain.begin_record()
        if record is not None:
            self._append(record, {})

    def _append(self, entry: ChainEntry, forecasts: dict[str, tuple[Row, str]]) -> None:
        stored = Stored(entry, forecasts)
        expected = self.chain.position

        def send(identity: str) -> None:
            is_stored, sequence = self._stream.append(stored, expected, identity)
            self._network.send(lambda: self._take_answer(identity, is_stored, sequence, stored))

        self._ask(send, is_append=True)

    def _take_answer(self, identity: str, is_stored: bool, sequence: int, stored: Stored) -> None:
        if not self._is_answer(identity):
            return
        if not is_stored:
            self.chain.reject(sequence)
            return
        try:
            self._post(self.chain.confirm(sequence), stored)
        except ChainGapError:
            self.has_failed = True
