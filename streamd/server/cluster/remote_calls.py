"""Calls about servers that other nodes have: passed on to their nodes, and answered for those.

Whether the caller may make a call was decided at the node that was asked; its globs travel with a list.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from streamd.cluster.log import Log, LogAwayError, NoAnswerError, Unsubscribe
from streamd.cluster.long_answers import LongAnswers, ask
from streamd.core.access.caller import Caller
from streamd.core.access.scopes import Scope
from streamd.core.cluster.shards import ClusterNames, find_shard
from streamd.core.errors import UnavailableError
from streamd.core.selection import ServerGlobs
from streamd.http.server_answers import EncodedAnswer, ServerAnswers, ServerCall, ServerCallKind
from streamd.http.server_pages import make_server_page
from streamd.runtime.service import Service

CALL_VERB, LIST_VERB = "call", "servers"

REMOTE_CALL_SECONDS = 1.5
"""The time in which another node must answer a call about a server; one that is stopped never does."""

REMOTE_FORGET_SECONDS = 5.0
"""The same for a call to forget a server: its node tells sooner whether the log has stored the order."""

REMOTE_LIST_SECONDS = 3.0
"""The same for a list, which takes longer."""


class ListCall(msgspec.Struct, frozen=True, kw_only=True):
    """A question for the servers of a node; without globs, for all of them."""

    after: str
    limit: int
    globs: tuple[str, ...] | None = None


class ListAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Servers of a node by name, and the shards that it has."""

    servers: list[dict[str, Any]]
    has_more: bool
    shards: tuple[int, ...]


_call_decoder = msgspec.msgpack.Decoder(ServerCall)
_answer_decoder = msgspec.msgpack.Decoder(EncodedAnswer)
_list_decoder = msgspec.msgpack.Decoder(ListCall)
_list_answer_decoder = msgspec.msgpack.Decoder(ListAnswer)


class RemoteCalls:
    """Asks the nodes that have servers. `find_owner` returns the node that has a shard; `list_nodes` all that live.

    `has_forecast` says whether the latest forecast of a server is known here: it answers if its node does not.
    """

    def __init__(
        self,
        cluster_log: Log,
        names: ClusterNames,
        node: str,
        shards: int,
        *,
        find_owner: Callable[[int], str | None],
        list_nodes: Callable[[], Sequence[str]],
        answer_list: Callable[[ListCall], ListAnswer],
        has_forecast: Callable[[str], bool] = lambda server: False,
    ) -> None:
        self._log = cluster_log
        self._names = names
        self._node = node
        self._shards = shards
        self._find_owner = find_owner
        self._list_nodes = list_nodes
        self._answer_list = answer_list
        self._has_forecast = has_forecast

    async def answer(self, call: ServerCall) -> EncodedAnswer | None:
        """Return the answer of the node that has the server; `None` if this one can answer.

        Raises `UnavailableError`.
        """
        shard = find_shard(call.server, self._shards)
        owner = self._find_owner(shard)
        if owner == self._node:
            return None
        try:
            if owner is None:
                raise UnavailableError(f"no node has the shard {shard}, of the server {call.server!r}, at this moment")
            seconds = REMOTE_FORGET_SECONDS if call.kind is ServerCallKind.FORGET else REMOTE_CALL_SECONDS
            data = await self._ask(owner, CALL_VERB, msgspec.msgpack.encode(call), seconds)
            if not data:
                raise UnavailableError(f"the shard {shard}, of the server {call.server!r}, is moving to another node")
        except UnavailableError:
            if call.kind is ServerCallKind.FORECAST and self._has_forecast(call.server):
                return None
            raise
        return _answer_decoder.decode(data)

    async def list_servers(self, caller: Caller, after: str, limit: int) -> Mapping[str, Any]:
        """Return a page of all servers that a caller may read, by name, and the shards that no node answered for."""
        globs = None if caller.covers_all(Scope.READ) else _list_globs(caller)
        call = ListCall(after=after, limit=limit, globs=globs)
        answers = await asyncio.gather(*(self._ask_list(node, call) for node in self._list_nodes()))
        return merge_pages([each for each in answers if each is not None], limit, self._shards)

    async def _ask_list(self, node: str, call: ListCall) -> ListAnswer | None:
        if node == self._node:
            return self._answer_list(call)
        question = msgspec.msgpack.encode(call)
        try:
            return _list_answer_decoder.decode(await self._ask(node, LIST_VERB, question, REMOTE_LIST_SECONDS))
        except UnavailableError:
            return None  # its shards are named in the answer

    async def _ask(self, node: str, verb: str, data: bytes, seconds: float) -> bytes:
        try:
            return await ask(self._log, self._names.ask(node, verb), data, timeout_seconds=seconds)
        except NoAnswerError as exc:
            raise UnavailableError(f"the node {node} has the server and does not answer: {exc}") from exc
        except LogAwayError as exc:
            raise UnavailableError(f"the node {node} has the server and cannot be reached: {exc}") from exc


class CallServer:
    """Answers the calls of other nodes about the servers of this one; `list_owned` returns the shards that it has."""

    def __init__(
        self, service: Service, answers: ServerAnswers, shards: int, list_owned: Callable[[], Sequence[int]]
    ) -> None:
        self._service = service
        self._answers = answers
        self._shards = shards
        self._list_owned = list_owned
        self._unsubscribe: list[Unsubscribe] = []

    async def serve(self, cluster_log: Log, names: ClusterNames, node: str) -> None:
        """Answer from now on."""
        for verb, answer in ((CALL_VERB, self._answer_call), (LIST_VERB, self._answer_list)):
            self._unsubscribe.append(await LongAnswers(answer).serve(cluster_log, names.ask(node, verb)))

    async def close(self) -> None:
        """Answer no more."""
        while self._unsubscribe:
            await self._unsubscribe.pop()()

    async def _answer_call(self, data: bytes) -> bytes:
        """Return the answer to a call, encoded; nothing if the shard is not here, or not here any more.

        Its servers may then be known without their rows: because their forecasts are followed, or since their shard is
        being loaded.
        """
        call = _call_decoder.decode(data)
        if find_shard(call.server, self._shards) not in self._list_owned():
            return b""
        return msgspec.msgpack.encode(await self._answers.answer_here(call))

    async def _answer_list(self, data: bytes) -> bytes:
        return msgspec.msgpack.encode(self.list_servers(_list_decoder.decode(data)))

    def list_servers(self, call: ListCall) -> ListAnswer:
        """Return servers of the shards that this node has; it may know servers of others, whose forecasts it relays."""
        owned = frozenset(self._list_owned())
        globs = None if call.globs is None else ServerGlobs(call.globs)

        def accepts(server: str) -> bool:
            return (globs is None or globs.matches(server)) and find_shard(server, self._shards) in owned

        page = make_server_page(self._service, call.after, call.limit, accepts)
        return ListAnswer(servers=page.servers, has_more=page.next is not None, shards=tuple(sorted(owned)))


def merge_pages(answers: Sequence[ListAnswer], limit: int, shards: int) -> dict[str, Any]:
    """Return one page of the pages of several nodes; each of them is complete, or has `limit` servers.

    A server is there once, though two nodes may list it while its shard moves.
    """
    by_name = {server["server"]: server for answer in answers for server in answer.servers}
    ordered = [by_name[name] for name in sorted(by_name)]
    has_more = len(ordered) > limit or any(answer.has_more for answer in answers)
    page = ordered[:limit]
    missing = sorted(set(range(shards)).difference(*(answer.shards for answer in answers)))
    return {
        "servers": page,
        "next": page[-1]["server"] if page and has_more else None,
        **({"missing_shards": missing} if missing else {}),
    }


def _list_globs(caller: Caller) -> tuple[str, ...]:
    granted = caller.scopes.get(Scope.READ)
    return () if granted is None else granted.globs
