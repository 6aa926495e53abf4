"""The Temporal Fusion Transformer (Lim, Arik, Loeff, Pfister, 2021, arXiv 1912.09363) to the model contract.

Faithful in its parts: variable selection, gated residual networks, static enrichment, LSTM encoder and
decoder, interpretable multi-head attention, gated skip connections. What is said otherwise is said where.
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


class TemporalFusionTransformer(nn.Module):
    """(batch, 288, 14) raw features to (batch, 96, target, quantile) raw forecasts.

    Past inputs: every feature with its mask, the calendar, the status. Future inputs: the calendar, the
    status, and for every target its value at the same time of the day before (a lagged known input, which
    the attention could find by itself, but later). Static input: the server id.
    """

    def __init__(self, contract: NetworkContract, hidden: int = 64, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.contract = contract
        self.hidden = hidden
        features, targets = len(contract.features), len(contract.targets)
        self.scaler, self.restorer = WindowScaler(contract.target_index), WindowRestorer(contract.percent)
        self.known_server, self.known_status = Bounded(contract.servers), Bounded(contract.statuses)
        self.server = nn.Embedding(contract.servers, hidden)
        self.status = nn.Embedding(contract.statuses, 2)
        nn.init.zeros_(self.status.weight)
        self.static = nn.ModuleList(GatedResidual(hidden, hidden, dropout=dropout) for _ in range(4))
        self.past = VariableSelection([2] * features + [contract.calendar, 2], hidden, dropout)
        self.future = VariableSelection([2] * targets + [contract.calendar, 2], hidden, dropout)
        self.encoder = nn.LSTM(hidden, hidden, batch_first=True)
        self.decoder = nn.LSTM(hidden, hidden, batch_first=True)
        self.after_lstm = GateAddNorm(hidden, hidden, dropout)
        self.enrichment = GatedResidual(hidden, hidden, context=hidden, dropout=dropout)
        self.attention = InterpretableAttention(hidden, heads, contract.context_length, contract.horizon, dropout)
        self.after_attention = GateAddNorm(hidden, hidden, dropout)
        self.feed_forward = GatedResidual(hidden, hidden, dropout=dropout)
        self.before_output = GateAddNorm(hidden, hidden, 0.0)
        self.output = nn.Linear(hidden, targets * (len(contract.quantiles) + 1))
        self.order = QuantileOrder(contract.quantiles)

    def forward(self, encoder_cont: Tensor, encoder_cat: Tensor, decoder_cont: Tensor, decoder_cat: Tensor) -> Tensor:
        """The contract's four inputs to (batch, horizon, target, quantile) float32, in raw units."""
        contract, horizon = self.contract, self.contract.horizon
        # 1. scale the window; everything up to `restore` is unitless
        window, targets = self.scaler(encoder_cont)
        past, future, lag = self._inputs(window, targets, encoder_cat, decoder_cont, decoder_cat)
        # 2. static covariates: contexts for selection, both LSTM states, enrichment
        server = self.server(self.known_server(encoder_cat[:, 0, 0]))
        selection, cell, state, enrichment = (grn(server).unsqueeze(1) for grn in self.static)
        # 3. variable selection and local processing
        past, future = self.past(past, selection), self.future(future, selection)
        first = (state.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous())
        encoded, last = self.encoder(past, first)
        decoded, _ = self.decoder(future, last)
        local = self.after_lstm(torch.cat([encoded, decoded], 1), torch.cat([past, future], 1))
        # 4. static enrichment, attention over the whole window, position-wise feed-forward; from attention
        #    on only the horizon is computed, since nothing reads the rest
        enriched = self.enrichment(local, enrichment)
        attended = self.after_attention(self.attention(enriched), enriched[:, -horizon:])
        fused = self.before_output(self.feed_forward(attended), local[:, -horizon:])
        # 5. ordered quantiles about a gated share of yesterday's value, back in raw units
        free = self.output(fused).reshape(-1, horizon, len(contract.targets), len(contract.quantiles) + 1)
        gate, free = torch.sigmoid(free[..., :1]), free[..., 1:]
        return self.restorer(self.order(free) + gate * lag.unsqueeze(-1), targets)

    def _inputs(
        self,
        window: ScaledWindow,
        targets: ScaledWindow,
        encoder_cat: Tensor,
        decoder_cont: Tensor,
        decoder_cat: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Past (batch, 288, component), future (batch, 96, component) and lag (batch, 96, target)."""
        contract, horizon = self.contract, self.contract.horizon
        calendar = compute_past_calendar(decoder_cont, contract.context_length, contract.step_seconds)
        status = self.status(self.known_status(encoder_cat[..., 1]))
        past = torch.cat([_pairs(window.compressed, window.observed), calendar, status], dim=-1)
        start = contract.context_length - contract.steps_per_day
        lag = slice(start, start + horizon)
        status = self.status(self.known_status(decoder_cat[..., 1]))
        pairs = _pairs(targets.compressed[:, :, lag], targets.observed[:, :, lag])
        future = torch.cat([pairs, decoder_cont, status], dim=-1)
        return past, future, targets.values[:, :, lag].transpose(1, 2)


def _pairs(values: Tensor, observed: Tensor) -> Tensor:
    """Value and mask side by side: (batch, feature, time) twice to (batch, time, 2 x feature)."""
    features, time = int(values.shape[1]), int(values.shape[2])
    return torch.stack([values, observed], dim=2).reshape(-1, 2 * features, time).transpose(1, 2)


class GateAddNorm(nn.Module):
    """LayerNorm(skip + GLU(x)): the gated skip connection that the paper puts around every block."""

    def __init__(self, size: int, out: int, dropout: float) -> None:
        super().__init__()
        self.out = out
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(size, 2 * out)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(..., size) and its skip (..., out) to (..., out)."""
        value, gate = self.gate(self.dropout(x)).split(self.out, dim=-1)
        return self.norm(skip + value * torch.sigmoid(gate))


class GatedResidual(nn.Module):
    """The paper's gated residual network, equations 2 to 4.

    Equation 3's linear layer W1 feeds the gate's linear layers with only dropout between, so the product of
    both is one matrix; it is learnt as that one matrix, which saves a pass.
    """

    def __init__(self, size: int, out: int, context: int = 0, dropout: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Linear(size, out)
        self.context = nn.Linear(context, out, bias=False) if context else None
        self.skip = nn.Linear(size, out) if size != out else nn.Identity()
        self.close = GateAddNorm(out, out, dropout)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(..., size) and, where the block has one, its static context to (..., out)."""
        inner = self.first(x)
        if self.context is not None and context is not None:
            inner = inner + self.context(context)
        return self.close(nn.functional.elu(inner), self.skip(x))


class VariableSelection(nn.Module):
    """Variable selection over all variables at once, in few passes over (batch, time, variable, hidden).

    A variable's embedding is affine in its one to four components, so both the first layer of its gated
    residual network and the selection network's layer over all flattened embeddings are affine in the
    components too: they are learnt as such, and only one batched product over the hidden size is left.
    The components are laid out by variable while they are few, so nothing of hidden size is ever transposed.
    """

    def __init__(self, components: list[int], hidden: int, dropout: float) -> None:
        super().__init__()
        self.count, self.hidden = len(components), hidden
        width = sum(components)
        self.choose = GatedResidual(width, self.count, context=hidden, dropout=dropout)
        self.widest = max(components)
        # Each variable's components by their place in x; one of fewer has its first again, at no weight.
        begin = torch.tensor([0, *components]).cumsum(0)[:-1].view(-1, 1)
        place, has = torch.arange(self.widest).view(1, -1), torch.tensor(components).view(-1, 1)
        self.slots: Tensor
        self.slots_and_one: Tensor
        self.own: Tensor
        self.register_buffer("slots", begin + torch.where(place < has, place, 0), persistent=False)
        last = torch.full((self.count, 1), width)
        self.register_buffer("slots_and_one", torch.cat([self.slots, last], dim=1), persistent=False)
        self.register_buffer("own", (place < has).float().unsqueeze(-1), persistent=False)
        self.embed = nn.Linear(width, self.count * hidden)
        self.first = nn.Linear(width, self.count * hidden)
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Parameter(torch.randn(self.count, hidden, 2 * hidden) * hidden**-0.5)
        self.gate_bias = nn.Parameter(torch.zeros(self.count, 1, 2 * hidden))
        self.norm_weight = nn.Parameter(torch.ones(self.count, 1, hidden))
        self.norm_bias = nn.Parameter(torch.zeros(self.count, 1, hidden))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(batch, time, component) and (batch, 1, hidden) to (batch, time, hidden)."""
        time = int(x.shape[1])
        weights = torch.softmax(self.choose(x, context), dim=-1)
        one = x[..., :1] * 0.0 + 1.0
        embedded = torch.matmul(self._own(x, self.slots), self._maps(self.embed))
        # With its bias as one more component, the first layer is a product and nothing else.
        first = torch.cat([self._maps(self.first), self._bias(self.first)], dim=1)
        inner = nn.functional.elu(torch.matmul(self._own(torch.cat([x, one], dim=2), self.slots_and_one), first))
        gated = torch.matmul(self.dropout(inner), self.gate) + self.gate_bias
        value, gate = gated.split(self.hidden, dim=-1)
        each = embedded + self._bias(self.embed) + value * torch.sigmoid(gate)
        each = nn.functional.layer_norm(each, (self.hidden,))
        each = each * self.norm_weight + self.norm_bias
        share = weights.reshape(-1, self.count).transpose(0, 1).unsqueeze(-1)
        return (each * share).sum(dim=0).reshape(-1, time, self.hidden)

    def _own(self, x: Tensor, slots: Tensor) -> Tensor:
        """Every variable's own components: (batch, time, component) to (variable, batch x time, slot)."""
        return x.index_select(2, slots.flatten()).reshape(-1, self.count, int(slots.shape[1])).transpose(0, 1)

    def _maps(self, layer: nn.Linear) -> Tensor:
        """What of a layer's weights is each variable's own: (variable, slot, hidden)."""
        maps = layer.weight.reshape(self.count, self.hidden, -1).transpose(1, 2)
        return maps.gather(1, self.slots.unsqueeze(-1).expand(-1, -1, self.hidden)) * self.own

    def _bias(self, layer: nn.Linear) -> Tensor:
        """(variable, 1, hidden)."""
        return layer.bias.reshape(self.count, 1, self.hidden)


class InterpretableAttention(nn.Module):
    """Interpretable multi-head attention: heads differ in queries and keys and share the values.

    Queries are the horizon's positions only. A position sees the past and itself (a finite mask constant).
    The mean over heads is taken after the product with the values and inside the closing layer: all of it is
    linear, and what is left has the form of plain multi-head attention, for which engines have fused kernels.
    """

    def __init__(self, hidden: int, heads: int, context: int, horizon: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.size, self.horizon = heads, hidden // heads, horizon
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, self.size)
        self.close = nn.Linear(self.size, hidden)
        self.dropout = nn.Dropout(dropout)
        ahead = torch.arange(context + horizon).view(1, -1) > torch.arange(context, context + horizon).view(-1, 1)
        self.mask: Tensor
        self.register_buffer("mask", ahead.float() * -1e4, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, context + horizon, hidden) to (batch, horizon, hidden)."""
        query = self.query(x[:, -self.horizon :]).reshape(-1, self.horizon, self.heads, self.size).transpose(1, 2)
        shape = (-1, int(x.shape[1]), self.heads, self.size)
        key = self.key(x).reshape(shape).transpose(1, 2)
        shared = (torch.cat([each] * self.heads) for each in (self.value.weight, self.value.bias))
        value = nn.functional.linear(x, *shared).reshape(shape).transpose(1, 2)
        scores = torch.matmul(query, key.transpose(-1, -2)) * self.size**-0.5 + self.mask
        attended = torch.matmul(self.dropout(torch.softmax(scores, dim=-1)), value)
        attended = attended.transpose(1, 2).reshape(-1, self.horizon, self.heads * self.size)
        return nn.functional.linear(
            attended, torch.cat([self.close.weight / self.heads] * self.heads, 1), self.close.bias
        )
