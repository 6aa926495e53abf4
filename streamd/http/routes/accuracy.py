"""The routes of the accuracy history: past forecasts of one server, what came true, and how far they were off.

Reads the history; what is kept, and how it is scored, is decided there.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from aiohttp import web
from multidict import MultiDict

from streamd.core.accuracy.history_scores import HistoryForm
from streamd.core.arrays import Float32, Float64
from streamd.core.contract import ModelContract
from streamd.core.errors import UnknownServerError
from streamd.core.unknown_targets import TargetFlags, read_unknown
from streamd.http.history_choices import HistoryChoice, parse_history_query
from streamd.http.names import make_resource_path, require_slot
from streamd.http.server_answers import ServerAnswer, ServerAnswers, ServerCall, ServerCallKind
from streamd.http.wire.codecs import Encoding
from streamd.http.wire.tensors import make_wire_tensor
from streamd.http.wire.unknown_fields import describe_unknown, list_values
from streamd.runtime.accuracy.history_records import ServerHistory, StoredForecast
from streamd.runtime.service import Service


class AccuracyRoutes:
    """Handlers that read the accuracy history of a server."""

    def __init__(self, service: Service, answers: ServerAnswers) -> None:
        self._service = service
        self._answers = answers
        answers.add(ServerCallKind.ACCURACY, self.answer_history)

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/accuracy", self.get_history)
        app.router.add_get(make_resource_path("/v1/servers/{server}/accuracy"), self.get_history)

    async def get_history(self, request: web.Request) -> web.Response:
        """Return the newest kept forecasts of a server with their truth and scores, and a summary of the period."""
        return await self._answers.answer(request, ServerCallKind.ACCURACY)

    async def answer_history(self, call: ServerCall) -> ServerAnswer:
        """Answer with the kept forecasts."""
        service, server = self._service, call.server
        slot = require_slot(service, server)
        choice = parse_history_query(service.contract, MultiDict(call.query))
        history = await service.history.read_history(slot, choice.first, choice.last, choice.limit)
        if service.state.directory.slots.get(server) != slot:
            raise UnknownServerError(f"no server {server!r} reports")
        return ServerAnswer(_describe_history(service.history.form, server, history, choice, call.encoding))


def _describe_history(
    form: HistoryForm, server: str, history: ServerHistory, choice: HistoryChoice, encoding: Encoding
) -> dict[str, Any]:
    contract = form.contract
    targets = [contract.targets[place] for place in choice.targets]
    axes: dict[str, Any] = {"targets": targets, "quantiles": list(form.quantiles)}
    if choice.every > 1:
        axes["every"] = choice.every
    return {
        "server": server,
        "step_seconds": contract.step_seconds,
        **axes,
        "forecasts": [_describe_forecast(contract, each, choice, encoding) for each in history.forecasts],
        "scores": [
            {"origin": contract.to_origin(each.step), "model": each.model, **score}
            for each in history.scores
            for score in _describe_scores(form, choice, each.sums, form.range_names)
        ],
        "summary": _describe_summary(form, choice, history),
    }


def _describe_forecast(
    contract: ModelContract, stored: StoredForecast, choice: HistoryChoice, encoding: Encoding
) -> dict[str, Any]:
    chosen, steps = list(choice.targets), slice(choice.every - 1, None, choice.every)
    unknown = read_unknown(stored.values)[chosen]
    return {
        "origin": contract.to_origin(stored.step),
        "model": stored.model,
        **describe_unknown([contract.targets[place] for place in chosen], unknown),
        "values": _pack_array(stored.values[chosen, steps], unknown, encoding),
        "truth": _pack_array(stored.truth[chosen, steps], np.zeros_like(unknown), encoding),
        "is_complete": stored.is_complete,
    }


def _pack_array(values: Float32, unknown: TargetFlags, encoding: Encoding) -> Any:
    """Return a tensor for MessagePack; in JSON, orjson writes an array as lists, and NaN as null.

    `unknown (targets,)` are the targets that have no values at all.
    """
    values = np.ascontiguousarray(values)
    return make_wire_tensor(values) if encoding is Encoding.MSGPACK else list_values(values, unknown)


def _describe_summary(form: HistoryForm, choice: HistoryChoice, history: ServerHistory) -> list[dict[str, Any]]:
    """Return the scores over all forecasts of the period, by range and over the whole horizon."""
    if not history.scored:
        return []
    whole = history.total.sum(1, keepdims=True)
    return [
        *_describe_scores(form, choice, history.total, form.range_names),
        *_describe_scores(form, choice, whole, [f"1-{form.contract.horizon}"]),
    ]


def _describe_scores(
    form: HistoryForm, choice: HistoryChoice, sums: Float32 | Float64, ranges: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the scores of sums `(targets, ranges, columns)`; a range without a scored value is left out."""
    for place in choice.targets:
        for index, name in enumerate(ranges):
            score = form.make_score(sums[place, index])
            if score.count:
                yield {
                    "target": form.contract.targets[place],
                    "range": name,
                    "loss": score.loss,
                    "coverage": None if math.isnan(score.coverage) else score.coverage,
                    "mae": score.error,
                    "count": score.count,
                }
