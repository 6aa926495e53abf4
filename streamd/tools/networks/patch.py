"""The patch forecaster: a parallel quantile model whose tokens are stretches of one series, not steps.

After PatchTST (Nie et al., 2023, arXiv 2211.14730) and Chronos-Bolt (Ansari et al., 2024): patches of the
past and patches of the future are tokens of one small transformer, shared by all series, so it has no loop
over steps. New here: future tokens start from the same hours of the day before, quantiles stand about a
learnt blend of simple forecasts, and series of one server may look at each other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamd.tools.networks.contract import NetworkContract
from streamd.tools.networks.scaling import (
    Bounded,
    QuantileOrder,
    ScaledWindow,
    WindowRestorer,
    WindowScaler,
    compute_past_calendar,
)

STATISTICS = 4


class PatchForecaster(nn.Module):
    """(batch, 288, 14) raw features to (batch, 96, target, quantile) raw forecasts.

    patch: steps a token; width, layers, heads: of the transformer; mixing: how the targets of one server
    see each other, "none", "mean" (a pooled token) or "attention" (the set of targets, no order in it);
    identity: whether a target is told which one it is.
    """

    def __init__(
        self,
        contract: NetworkContract,
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
        self.contract, self.patch, self.width = contract, patch, width
        self.past_tokens, self.future_tokens = contract.context_length // patch, contract.horizon // patch
        self.scaler = WindowScaler(contract.target_index, only_targets=True)
        self.restorer = WindowRestorer(contract.percent)
        self.anchors = Anchors(contract)
        self.past = nn.Linear(2 * patch, width)
        self.future = nn.Linear(2 * patch, width)
        self.calendar = nn.Linear(contract.calendar, width, bias=False)
        self.statistics = nn.Linear(STATISTICS, width)
        self.known_server, self.known_status = Bounded(contract.servers), Bounded(contract.statuses)
        self.server = nn.Embedding(contract.servers, width)
        self.status = nn.Embedding(contract.statuses, width)
        self.position = nn.Parameter(torch.randn(self.past_tokens + self.future_tokens, width) * 0.02)
        self.identity = nn.Parameter(torch.zeros(len(contract.targets), 1, width)) if identity else None
        nn.init.zeros_(self.server.weight)
        nn.init.zeros_(self.status.weight)
        self.blocks = nn.ModuleList(
            Block(width, heads, expansion, dropout, mixing, len(contract.targets)) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.free = len(contract.quantiles) + self.anchors.count
        self.output = nn.Linear(width, patch * self.free)
        self.order = QuantileOrder(contract.quantiles)

    def forward(self, encoder_cont: Tensor, encoder_cat: Tensor, decoder_cont: Tensor, decoder_cat: Tensor) -> Tensor:
        """The contract's four inputs to (batch, horizon, target, quantile) float32, in raw units."""
        # 1. scale every series by its own window; up to `restore` everything is unitless
        _, window = self.scaler(encoder_cont)
        # 2. tokens of every series, through the blocks; only those of the future are read out
        tokens = self._tokens(window, encoder_cat, decoder_cont, decoder_cat)
        for block in self.blocks:
            tokens = block(tokens)
        free = self._free(self.norm(tokens[:, self.past_tokens :]))
        # 3. per step: seven free numbers about a blend of simple forecasts, ordered, back in raw units
        quantiles, blend = free.split([len(self.contract.quantiles), self.anchors.count], dim=2)
        base = (torch.softmax(blend, dim=2) * self.anchors(window)).sum(dim=2, keepdim=True)
        return self.restorer((self.order(quantiles, dim=2) + base).permute(0, 3, 1, 2), window)

    def _free(self, tokens: Tensor) -> Tensor:
        """(batch x target, future token, width) to the free numbers of each step, (batch, target, number, horizon).

        The layer is learnt with the numbers of a step side by side; its rows are taken by number here, so that
        what follows works on whole stretches of time.
        """
        patch, width = self.patch, self.width
        weight = self.output.weight.reshape(patch, self.free, width).transpose(0, 1).reshape(-1, width)
        bias = self.output.bias.reshape(patch, self.free).transpose(0, 1).flatten()
        out = nn.functional.linear(tokens, weight, bias)
        out = out.reshape(-1, len(self.contract.targets), self.future_tokens, self.free, patch).transpose(2, 3)
        return out.reshape(-1, len(self.contract.targets), self.free, self.contract.horizon)

    def _tokens(self, window: ScaledWindow, encoder_cat: Tensor, decoder_cont: Tensor, decoder_cat: Tensor) -> Tensor:
        """(batch x target, past and future tokens, width)."""
        contract, patch = self.contract, self.patch
        parts = [window.compressed, window.observed]
        pairs = torch.cat([part.reshape(-1, self.past_tokens, patch) for part in parts], dim=-1)
        first = (contract.context_length - contract.steps_per_day) // patch
        tokens = torch.cat([self.past(pairs), self.future(pairs[:, first : first + self.future_tokens])], 1)
        set_shape = (len(contract.targets), self.past_tokens + self.future_tokens, self.width)
        tokens = tokens.reshape(-1, *set_shape)

        calendar = compute_past_calendar(decoder_cont, contract.context_length, contract.step_seconds)
        calendar = torch.cat([calendar[:, ::patch], decoder_cont[:, ::patch]], dim=1)
        status = torch.cat([encoder_cat[:, patch - 1 :: patch, 1], decoder_cat[:, ::patch, 1]], dim=1)
        server = self.known_server(encoder_cat[:, :1, 0])
        shared = self.calendar(calendar) + self.status(self.known_status(status))
        shared = shared + self.server(server) + self.position
        tokens = tokens + shared.unsqueeze(1) + self._statistics(window).unsqueeze(2)
        if self.identity is not None:
            tokens = tokens + self.identity
        return tokens.reshape(-1, *set_shape[1:])

    def _statistics(self, window: ScaledWindow) -> Tensor:
        """What scaling took away and a forecaster may want: (batch, target, width).

        All are shares, so a change of unit changes none of them.
        """
        share_seen = window.observed.mean(dim=2, keepdim=True)
        facts = [window.center, torch.log(window.spread), share_seen, window.offset]
        return self.statistics(torch.cat(facts, dim=2))


class Anchors(nn.Module):
    """Simple forecasts that the network blends step by step, in scaled units: (batch, target, anchor, 96).

    The same time yesterday, plain and averaged over 35 and 125 minutes; the mean of the last quarter of an
    hour, of two hours, and of the window (zero, by the scaling). Averages are over what was reported;
    where nothing was, they are zero.
    """

    def __init__(self, contract: NetworkContract) -> None:
        super().__init__()
        step = torch.arange(contract.context_length).view(-1, 1)
        start = contract.context_length - contract.steps_per_day
        ahead = start + torch.arange(contract.horizon).view(1, -1)
        maps = [((step - ahead).abs() <= reach).float() for reach in (0, 3, 12)]
        maps += [(step >= contract.context_length - last).float().expand(-1, contract.horizon) for last in (3, 24)]
        maps.append(torch.zeros_like(maps[0]))
        self.count, self.targets = len(maps), len(contract.targets)
        self.horizon = contract.horizon
        self.maps: Tensor
        self.register_buffer("maps", torch.cat(maps, dim=1).contiguous(), persistent=False)

    def forward(self, window: ScaledWindow) -> Tensor:
        """Means of the scaled values over each anchor's steps, as one product with constant maps."""
        both = torch.cat([window.values, window.observed], dim=1)
        sums = torch.matmul(both.reshape(-1, int(both.shape[2])), self.maps)
        total, count = sums.reshape(-1, 2 * self.targets, self.count * self.horizon).split(self.targets, dim=1)
        return (total / count.clamp(min=1.0)).reshape(-1, self.targets, self.count, self.horizon)


class Block(nn.Module):
    """Pre-norm transformer block over a series' tokens, then over a server's series where `mixing` says so."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float, mixing: str, series: int) -> None:
        super().__init__()
        if mixing not in ("none", "mean", "attention"):
            raise ValueError(f"mixing {mixing!r}: expected none, mean or attention")
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

    def forward(self, x: Tensor) -> Tensor:
        """(batch x series, token, width) to the same."""
        x = x + self.dropout(self.attention(self.norms[0](x)))
        if self.mixing != "none":
            x = x + self.dropout(self._mixed(self.norms[2](x)))
        return x + self.dropout(self.feed_forward(self.norms[1](x)))

    def _mixed(self, x: Tensor) -> Tensor:
        """What each series takes from the others of its server, of the shape of `x`."""
        tokens, width = int(x.shape[1]), int(x.shape[2])
        sets = x.reshape(-1, self.series, tokens, width)
        if self.mixing == "mean":
            mixed = self.mix(sets.mean(dim=1, keepdim=True)).expand(-1, self.series, -1, -1)
        else:
            across = self.mix(sets.transpose(1, 2).reshape(-1, self.series, width))
            mixed = across.reshape(-1, tokens, self.series, width).transpose(1, 2)
        return mixed.reshape(-1, tokens, width)


class Attention(nn.Module):
    """Multi-head self-attention over the middle axis of (sets, token, width), as plain products.

    Products of four axes are what engines have fused kernels for; a fifth axis for the series would hide them.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.project = nn.Linear(width, 3 * width)
        self.close = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(sets, token, width) to the same."""
        tokens, width = int(x.shape[1]), self.heads * self.size
        shape = (-1, tokens, self.heads, self.size)
        query, key, value = (p.reshape(shape).transpose(1, 2) for p in self.project(x).split(width, dim=-1))
        scores = torch.matmul(query, key.transpose(-1, -2)) * self.size**-0.5
        weights = self.dropout(torch.softmax(scores, dim=-1))
        return self.close(torch.matmul(weights, value).transpose(1, 2).reshape(-1, tokens, width))
