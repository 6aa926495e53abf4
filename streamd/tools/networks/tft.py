"""The Temporal Fusion Transformer (Lim, Arik, Loeff, Pfister, 2021, arXiv 1912.09363) for the model contract.

It has the parts of the paper: variable selection, gated residual networks, static enrichment, LSTM encoder and decoder,
interpretable multi-head attention, gated skip connections. Each deviation is described where it is.

The names of submodules are part of the format of the weights and of the graph; do not rename them.
"""

import torch
from torch import Tensor, nn

from streamd.core.contract import CALENDAR_FEATURES
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.networks.operations import Bounded, compute_past_calendar, elu, softplus
from streamd.tools.networks.quantile_order import QuantileOrder
from streamd.tools.networks.restoring import WindowRestorer
from streamd.tools.networks.scaling import ScaledWindow, WindowScaler


class TemporalFusionTransformer(nn.Module):
    """Forecasts `(batch, horizon, target, quantile)` from raw features `(batch, context, feature)`.

    - Past inputs: each feature with its mask, the calendar, the status.
    - Future inputs: the calendar, the status, and for each target its value at the same time of the day before. This
      lagged input is known; attention could find it too, but would learn it later.
    - Static input: the server id.
    """

    def __init__(self, contract: NetworkContract, hidden: int = 64, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.contract = contract
        self.hidden = hidden
        features, targets = len(contract.features), len(contract.targets)
        self.scaler = WindowScaler(contract.target_index, contract.context_length)
        self.restorer = WindowRestorer(contract.percent)
        self.known_server, self.known_status = Bounded(contract.servers), Bounded(contract.statuses)
        self.server = nn.Embedding(contract.servers, hidden)
        self.status = nn.Embedding(contract.statuses, 2)
        nn.init.zeros_(self.status.weight)
        self.static = nn.ModuleList(GatedResidual(hidden, hidden, dropout=dropout) for _ in range(4))
        self.past = VariableSelection([2] * features + [CALENDAR_FEATURES, 2], hidden, dropout)
        self.future = VariableSelection([2] * targets + [CALENDAR_FEATURES, 2], hidden, dropout)
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
        """Return `(batch, horizon, target, quantile) float32` in raw units from the four inputs of the contract."""
        contract, horizon = self.contract, self.contract.horizon
        # 1. Scale the window. From here to `restorer` all numbers are without units.
        window, targets = self.scaler(encoder_cont)
        past, future, lag = self._arrange_inputs(window, targets, encoder_cat, decoder_cont, decoder_cat)
        # 2. Static covariates: contexts for selection, for both LSTM states and for enrichment.
        server = self.server(self.known_server(encoder_cat[:, 0, 0]))
        selection, cell, state, enrichment = (grn(server).unsqueeze(1) for grn in self.static)
        # 3. Variable selection and local processing.
        past, future = self.past(past, selection), self.future(future, selection)
        first = (state.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous())
        encoded, last = self.encoder(past, first)
        decoded, _ = self.decoder(future, last)
        local = self.after_lstm(torch.cat([encoded, decoded], 1), torch.cat([past, future], 1))
        # 4. Static enrichment, attention over the whole window, position-wise feed-forward. From attention on, only
        #    the horizon is computed, because nothing reads the rest.
        enriched = self.enrichment(local, enrichment)
        attended = self.after_attention(self.attention(enriched), enriched[:, -horizon:])
        fused = self.before_output(self.feed_forward(attended), local[:, -horizon:])
        # 5. Add ordered quantiles to a gated share of yesterday's value, and return to raw units.
        free = self.output(fused).reshape(-1, horizon, len(contract.targets), len(contract.quantiles) + 1)
        gate, free = torch.sigmoid(free[..., :1]), free[..., 1:]
        return self.restorer(self._order_quantiles(free) + gate * lag.unsqueeze(-1), targets)

    def _order_quantiles(self, free: Tensor) -> Tensor:
        """Return ascending quantiles from free numbers, `(batch, horizon, target, quantile)`.

        The number at the median's place becomes the median, the others the distances between neighbours.
        """
        middle = self.order.middle
        before, median, after = free.split([middle, 1, int(free.shape[-1]) - middle - 1], dim=-1)
        return self.order(median, softplus(torch.cat([before, after], dim=-1)))

    def _arrange_inputs(
        self,
        window: ScaledWindow,
        targets: ScaledWindow,
        encoder_cat: Tensor,
        decoder_cont: Tensor,
        decoder_cat: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return past, future and lag: `(batch, context or horizon, component)` twice, `(batch, horizon, target)`."""
        contract, horizon = self.contract, self.contract.horizon
        calendar = compute_past_calendar(decoder_cont, contract.context_length, contract.step_seconds)
        status = self.status(self.known_status(encoder_cat[..., 1]))
        past = torch.cat([_interleave(window.compressed, window.observed), calendar, status], dim=-1)
        start = contract.context_length - contract.steps_per_day
        lag = slice(start, start + horizon)
        status = self.status(self.known_status(decoder_cat[..., 1]))
        pairs = _interleave(targets.compressed[:, :, lag], targets.observed[:, :, lag])
        future = torch.cat([pairs, decoder_cont, status], dim=-1)
        return past, future, targets.values[:, :, lag].transpose(1, 2)


def _interleave(values: Tensor, observed: Tensor) -> Tensor:
    """Return each value beside its mask, `(batch, time, 2 x feature)`, from two tensors `(batch, feature, time)`."""
    features, time = int(values.shape[1]), int(values.shape[2])
    return torch.stack([values, observed], dim=2).reshape(-1, 2 * features, time).transpose(1, 2)


class GateAddNorm(nn.Module):
    """The gated skip connection around each block of the paper: LayerNorm(skip + GLU(x))."""

    def __init__(self, size: int, out: int, dropout: float) -> None:
        super().__init__()
        self.out = out
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(size, 2 * out)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return `(..., out)` from `x`, `(..., size)`, and `skip`, `(..., out)`."""
        value, gate = self.gate(self.dropout(x)).split(self.out, dim=-1)
        return self.norm(skip + value * torch.sigmoid(gate))


class GatedResidual(nn.Module):
    """The gated residual network of the paper, equations 2 to 4.

    Deviation: only dropout is between the linear layer W1 of equation 3 and the linear layers of the gate. Their
    product is one matrix, and it is learned as one matrix, which saves a pass.
    """

    def __init__(self, size: int, out: int, context: int = 0, dropout: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Linear(size, out)
        self.context = nn.Linear(context, out, bias=False) if context else None
        self.skip = nn.Linear(size, out) if size != out else nn.Identity()
        self.close = GateAddNorm(out, out, dropout)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return `(..., out)` from `x`, `(..., size)`, and the static context, if the network has one."""
        inner = self.first(x)
        if self.context is not None and context is not None:
            inner = inner + self.context(context)
        return self.close(elu(inner), self.skip(x))


class VariableSelection(nn.Module):
    """Variable selection over all variables at once, in few passes over `(batch, time, variable, hidden)`.

    Deviation: the embedding of a variable is affine in its one to four components. Therefore two layers are affine in
    the components too, and are learned as such: the first layer of each gated residual network, and the layer of the
    selection network over all embeddings. Only one batched product over the hidden size remains.

    The components are arranged by variable while they are few, so that nothing of hidden size is ever transposed.
    """

    def __init__(self, components: list[int], hidden: int, dropout: float) -> None:
        super().__init__()
        self.count, self.hidden = len(components), hidden
        width = sum(components)
        self.choose = GatedResidual(width, self.count, context=hidden, dropout=dropout)
        self.widest = max(components)
        # `slots` has, for each variable, the positions of its components in x. A variable with fewer components than
        # the widest repeats its first one, and `own` gives the repeated ones no weight. For components [2, 4, 2]:
        #
        #     x:      a0 a1 | b0 b1 b2 b3 | c0 c1
        #     slots:   0  1  0  0    own:  1 1 0 0
        #              2  3  4  5          1 1 1 1
        #              6  7  6  6          1 1 0 0
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
        """Return `(batch, time, hidden)` from `x`, `(batch, time, component)`, and `context`, `(batch, 1, hidden)`."""
        time = int(x.shape[1])
        weights = torch.softmax(self.choose(x, context), dim=-1)
        one = x[..., :1] * 0.0 + 1.0
        embedded = torch.matmul(self._gather_components(x, self.slots), self._gather_weights(self.embed))
        # With its bias as one more component, the first layer is a single product.
        first = torch.cat([self._gather_weights(self.first), self._reshape_bias(self.first)], dim=1)
        inner = elu(torch.matmul(self._gather_components(torch.cat([x, one], dim=2), self.slots_and_one), first))
        gated = torch.matmul(self.dropout(inner), self.gate) + self.gate_bias
        value, gate = gated.split(self.hidden, dim=-1)
        each = embedded + self._reshape_bias(self.embed) + value * torch.sigmoid(gate)
        each = nn.functional.layer_norm(each, (self.hidden,))
        # The sum of share x (weight x each + bias) over the variables. Its biases are one small product, which saves a
        # pass over everything: a sixth more forecasts a second on a GPU.
        shares = weights.reshape(-1, self.count)
        bias = torch.matmul(shares, self.norm_bias.squeeze(1))
        share = shares.transpose(0, 1).unsqueeze(-1) * self.norm_weight
        return ((each * share).sum(dim=0) + bias).reshape(-1, time, self.hidden)

    def _gather_components(self, x: Tensor, slots: Tensor) -> Tensor:
        """Return the components of each variable, `(variable, batch x time, slot)`, of `(batch, time, component)`."""
        return x.index_select(2, slots.flatten()).reshape(-1, self.count, int(slots.shape[1])).transpose(0, 1)

    def _gather_weights(self, layer: nn.Linear) -> Tensor:
        """Return the weights of a layer that belong to each variable, `(variable, slot, hidden)`."""
        maps = layer.weight.reshape(self.count, self.hidden, -1).transpose(1, 2)
        return maps.gather(1, self.slots.unsqueeze(-1).expand(-1, -1, self.hidden)) * self.own

    def _reshape_bias(self, layer: nn.Linear) -> Tensor:
        """Return the bias of a layer as `(variable, 1, hidden)`."""
        return layer.bias.reshape(self.count, 1, self.hidden)


class InterpretableAttention(nn.Module):
    """Interpretable multi-head attention: the heads have different queries and keys, and the same values.

    Only the positions of the horizon are queries. A position sees the past and itself, by a finite mask.

    Deviation: the mean over heads is taken after the product with the values, in the closing layer. All of this is
    linear, so the numbers are equal, and the rest has the form of plain multi-head attention, for which engines have
    fused kernels.
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
        """Return `(batch, horizon, hidden)` from `(batch, context + horizon, hidden)`."""
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
