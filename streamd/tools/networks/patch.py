"""The patch forecaster: a parallel quantile model whose tokens are stretches of one series, not single steps.

After PatchTST (Nie et al., 2023, arXiv 2211.14730) and Chronos-Bolt (Ansari et al., 2024): patches of the past and of
the future are tokens of one small transformer that all series share, so there is no loop over steps. New here: future
tokens start from the same hours of the day before, quantiles start from a learned blend of simple forecasts
(`streamd.tools.networks.blending`), hourly means of a week enter the tokens of the same hours, and series of one server
may attend to each other.

The names of submodules are part of the format of the weights and of the graph; do not rename them.
"""

import torch
from torch import Tensor, nn

from streamd.core.contract import CALENDAR_FEATURES
from streamd.tools.networks.blending import AnchoredQuantiles
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.networks.operations import Bounded, compress_spikes, compute_past_calendar
from streamd.tools.networks.restoring import WindowRestorer
from streamd.tools.networks.scaling import ScaledWindow, WindowScaler

STATISTICS = 6
"""The number of statistics that `_embed_statistics` embeds beside the quantiles of the window and its last quarter."""


class PatchForecaster(nn.Module):
    """Forecasts `(batch, horizon, target, quantile)` from raw features `(batch, context, feature)`.

    - `patch`: the steps of one token.
    - `width`, `layers`, `heads`, `expansion`: of the transformer.
    - `mixing`: how the targets of one server see each other: `none`, `mean` (a pooled token) or `attention` (over the
      set of targets, which has no order).
    - `identity`: whether each target has a learned embedding of its own.

    Raises `ValueError` if a patch is no part of the context and the horizon, or, with a memory, no multiple of its
    periods.
    """

    only_targets = True
    """It looks at no feature but the targets."""

    def __init__(
        self,
        contract: NetworkContract,
        *,
        patch: int = 24,
        width: int = 128,
        layers: int = 3,
        heads: int = 4,
        expansion: int = 4,
        dropout: float = 0.1,
        mixing: str = "attention",
        identity: bool = False,
    ) -> None:
        super().__init__()
        if contract.context_length % patch or contract.horizon % patch:
            raise ValueError(
                f"patch {patch}: expected a divisor of the context's {contract.context_length} steps and of the "
                f"horizon's {contract.horizon}"
            )
        self.contract, self.patch, self.width = contract, patch, width
        self.past_tokens, self.future_tokens = contract.context_length // patch, contract.horizon // patch
        self.scaler = WindowScaler(
            contract.target_index, contract.context_length, contract.memory_length, only_targets=True
        )
        self.restorer = WindowRestorer(contract.percent)
        self.quantiles = AnchoredQuantiles(contract)
        remembered = self._count_remembered()
        self.past = nn.Linear(2 * (patch + remembered), width)
        self.future = nn.Linear(2 * (patch + remembered), width)
        self.calendar = nn.Linear(CALENDAR_FEATURES, width, bias=False)
        self.statistics = nn.Linear(STATISTICS + 2 * len(contract.quantiles), width)
        self.known_server, self.known_status = Bounded(contract.servers), Bounded(contract.statuses)
        self.server = nn.Embedding(contract.servers, width)
        self.status = nn.Embedding(contract.statuses, width)
        self.position = nn.Parameter(torch.randn(self.past_tokens + self.future_tokens, width) * 0.02)
        self.identity = nn.Parameter(torch.zeros(len(contract.targets), 1, width)) if identity else None
        nn.init.zeros_(self.server.weight)
        nn.init.zeros_(self.status.weight)
        self.blocks = nn.ModuleList(
            Block(width, heads, expansion=expansion, dropout=dropout, mixing=mixing, series=len(contract.targets))
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, patch * self.quantiles.count)

    def forward(
        self,
        encoder_cont: Tensor,
        encoder_cat: Tensor,
        decoder_cont: Tensor,
        decoder_cat: Tensor,
        memory_cont: Tensor | None = None,
    ) -> Tensor:
        """Return `(batch, horizon, target, quantile) float32` in raw units from the inputs of the contract.

        `memory_cont`, `(batch or 1, length, feature)`, is given exactly if the contract has a memory.
        """
        # 1. Scale each series by its own window. From here to `restorer` all numbers are without units.
        _, window = self.scaler(encoder_cont, memory_cont)
        # 2. Run the tokens of each series through the blocks. Only the future tokens are read, so the last block
        #    drops the others as soon as nothing attends to them any more.
        quantiles = self.quantiles.find_quantiles(window)
        tokens = self._embed_tokens(window, quantiles, encoder_cat, decoder_cont, decoder_cat)
        *others, last = self.blocks
        for block in others:
            tokens = block(tokens)
        free = self._project_future(self.norm(last(tokens, dropped=self.past_tokens)))
        # 3. Make quantiles of the free numbers and the anchors, and return to raw units.
        return self.restorer(self.quantiles(free, window, quantiles).permute(0, 3, 1, 2), window)

    def _project_future(self, tokens: Tensor) -> Tensor:
        """Return the free numbers `(batch, target, number, horizon)` from `(batch x target, future token, width)`.

        The weights of the layer have the numbers of one step side by side. Here their rows are reordered by number, so
        that the operations that follow work on contiguous stretches of time:

            as stored:  step 0: n0 n1 n2 | step 1: n0 n1 n2 | ...
            as used:    n0: step 0, step 1, ... | n1: step 0, step 1, ... | ...
        """
        patch, width, count = self.patch, self.width, self.quantiles.count
        weight = self.output.weight.reshape(patch, count, width).transpose(0, 1).reshape(-1, width)
        bias = self.output.bias.reshape(patch, count).transpose(0, 1).flatten()
        out = nn.functional.linear(tokens, weight, bias)
        out = out.reshape(-1, len(self.contract.targets), self.future_tokens, count, patch).transpose(2, 3)
        return out.reshape(-1, len(self.contract.targets), count, self.contract.horizon)

    def _embed_tokens(
        self,
        window: ScaledWindow,
        quantiles: Tensor,
        encoder_cat: Tensor,
        decoder_cont: Tensor,
        decoder_cat: Tensor,
    ) -> Tensor:
        """Return past and future tokens, `(batch x target, token, width)`."""
        contract, patch = self.contract, self.patch
        parts = [window.compressed, window.observed]
        pairs = torch.cat([part.reshape(-1, self.past_tokens, patch) for part in parts] + self._read_memory(window), -1)
        first = (contract.context_length - contract.steps_per_day) // patch
        tokens = torch.cat([self.past(pairs), self.future(pairs[:, first : first + self.future_tokens])], 1)
        set_shape = (len(contract.targets), self.past_tokens + self.future_tokens, self.width)
        tokens = tokens.reshape(-1, *set_shape)

        calendar = compute_past_calendar(decoder_cont, contract.context_length, contract.step_seconds, every=patch)
        calendar = torch.cat([calendar, decoder_cont[:, ::patch]], dim=1)
        status = torch.cat([encoder_cat[:, patch - 1 :: patch, 1], decoder_cat[:, ::patch, 1]], dim=1)
        server = self.known_server(encoder_cat[:, :1, 0])
        shared = self.calendar(calendar) + self.status(self.known_status(status))
        shared = shared + self.server(server) + self.position
        tokens = tokens + shared.unsqueeze(1) + self._embed_statistics(window, quantiles).unsqueeze(2)
        if self.identity is not None:
            tokens = tokens + self.identity
        return tokens.reshape(-1, *set_shape[1:])

    def _count_remembered(self) -> int:
        """Return the number of the memory's elements that each token has."""
        contract = self.contract
        if not contract.memory_length:
            return 0
        period = contract.memory_step_seconds // contract.step_seconds
        day = 86_400 // contract.memory_step_seconds
        whole = contract.context_length == contract.steps_per_day and contract.memory_length % day == 0
        if self.patch % period or not whole:
            raise ValueError(
                f"patch {self.patch} with a memory of {contract.memory_length} periods of {period} steps: expected a "
                "multiple of the period, whole days of memory, and a context of one day"
            )
        return self.patch // period * (contract.memory_length // day)

    def _read_memory(self, window: ScaledWindow) -> list[Tensor]:
        """Return what the memory has of each past token's time of day, values and mask `(batch x target, token, day)`.

        A past token gets the same hours of the days before it, and its own; a future token those of all seven days.
        """
        if window.memory is None or window.remembered is None:
            return []
        contract = self.contract
        days = contract.memory_length * contract.memory_step_seconds // 86_400
        hours = contract.memory_length // (days * self.past_tokens)
        both = torch.cat([compress_spikes(window.memory), window.remembered], dim=2)
        both = both.reshape(-1, 2 * days, self.past_tokens, hours).transpose(1, 2)
        return [both.reshape(-1, self.past_tokens, 2 * days * hours)]

    def _embed_statistics(self, window: ScaledWindow, quantiles: Tensor) -> Tensor:
        """Return an embedding, `(batch, target, width)`, of the statistics that scaling removed, and of the quantiles.

        None has a unit, so that a change of unit changes none of them.
        """
        share_seen = window.observed.mean(dim=2, keepdim=True)
        few = 1.0 / (1.0 + window.observed.sum(dim=2, keepdim=True))
        known = share_seen * 0.0 if window.remembered is None else window.remembered.mean(dim=2, keepdim=True)
        facts = [window.center, torch.log(window.spread), share_seen, window.offset, few, known]
        facts.append(compress_spikes(quantiles).reshape(-1, *(int(n) for n in quantiles.shape[1:3])))
        return self.statistics(torch.cat(facts, dim=2))


class Block(nn.Module):
    """A pre-norm transformer block over the tokens of a series and, depending on `mixing`, the series of a server."""

    def __init__(self, width: int, heads: int, *, expansion: int, dropout: float, mixing: str, series: int) -> None:
        super().__init__()
        if mixing not in ("none", "mean", "attention"):
            raise ValueError(f"mixing {mixing!r}: expected 'none', 'mean' or 'attention'")
        self.mixing, self.series = mixing, series
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 if mixing == "none" else 3))
        self.attention = Attention(width, heads, dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(expansion * width, width)
        )
        self.dropout = nn.Dropout(dropout)
        if mixing == "mean":
            self.mix: nn.Module = nn.Linear(width, width)
        elif mixing == "attention":
            self.mix = Attention(width, heads, dropout)

    def forward(self, x: Tensor, dropped: int = 0) -> Tensor:
        """Return tokens of the same shape, `(batch x series, token, width)`, without the first `dropped` ones.

        The dropped tokens are still keys and values of the attention. Queries for the others alone would save more on
        a CPU, but TensorRT 8.6 finds no half-precision kernel for an attention of two lengths.
        """
        x = x + self.dropout(self.attention(self.norms[0](x)))
        if dropped:
            _, x = x.split([dropped, int(x.shape[1]) - dropped], dim=1)
        if self.mixing != "none":
            x = x + self.dropout(self._mix_series(self.norms[2](x)))
        return x + self.dropout(self.feed_forward(self.norms[1](x)))

    def _mix_series(self, x: Tensor) -> Tensor:
        """Return the contribution of the other series of a server to each series, in the shape of `x`."""
        tokens, width = int(x.shape[1]), int(x.shape[2])
        sets = x.reshape(-1, self.series, tokens, width)
        if self.mixing == "mean":
            mixed = self.mix(sets.mean(dim=1, keepdim=True)).expand(-1, self.series, -1, -1)
        else:
            across = self.mix(sets.transpose(1, 2).reshape(-1, self.series, width))
            mixed = across.reshape(-1, tokens, self.series, width).transpose(1, 2)
        return mixed.reshape(-1, tokens, width)


class Attention(nn.Module):
    """Multi-head self-attention over the middle axis of `(sets, token, width)`, as plain products.

    Engines have fused kernels for products of four axes; a fifth axis for the series would prevent the fusion.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.project = nn.Linear(width, 3 * width)
        self.close = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens of the same shape, `(sets, token, width)`."""
        tokens, width = int(x.shape[1]), self.heads * self.size
        shape = (-1, tokens, self.heads, self.size)
        query, key, value = (p.reshape(shape).transpose(1, 2) for p in self.project(x).split(width, dim=-1))
        scores = torch.matmul(query, key.transpose(-1, -2)) * self.size**-0.5
        weights = self.dropout(torch.softmax(scores, dim=-1))
        return self.close(torch.matmul(weights, value).transpose(1, 2).reshape(-1, tokens, width))
