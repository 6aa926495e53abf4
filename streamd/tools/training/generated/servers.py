"""Generates servers for training: draws a kind for each series by a table of shares, makes it, and disturbs some.

It reads no data. The kinds are in the other modules of this package; a kind is a function of `SeriesRows`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from streamd.tools.training.generated import levels, ramps, schedules, services
from streamd.tools.training.generated.compositions import compose_servers
from streamd.tools.training.generated.disturbances import disturb_servers, scale_to_unit
from streamd.tools.training.generated.draws import STEPS_A_WEEK, SeriesDraws
from streamd.tools.training.generated.loads import SeriesRows, make_loads

STEP_SECONDS = 300
SERVERS_A_CHUNK = 256
"""The servers that are made at once, so that the largest temporary tensors have 60 MB for two weeks."""

SHARES: Mapping[str, float] = {
    "composition": 0.35,
    "service": 0.1,
    "working_days": 0.07,
    "growth": 0.01,
    "saturation": 0.01,
    "counts": 0.025,
    "backlog": 0.01,
    "instances": 0.01,
    "level_noise": 0.065,
    "wandering": 0.025,
    "steps": 0.02,
    "regimes": 0.02,
    "idle": 0.025,
    "cron": 0.065,
    "ticks": 0.03,
    "jobs": 0.04,
    "shots": 0.065,
    "bursts": 0.02,
    "disks": 0.015,
    "leaks": 0.015,
    "collections": 0.01,
}
"""The share of each kind among all series. All series of a server are compositions, or none is."""

MAKERS: Mapping[str, Callable[[SeriesRows], Tensor]] = {
    "service": services.make_service,
    "working_days": services.make_working_days,
    "growth": services.make_growth,
    "saturation": services.make_saturation,
    "counts": services.make_counts,
    "backlog": services.make_backlog,
    "instances": services.make_instances,
    "level_noise": levels.make_level_noise,
    "wandering": levels.make_wandering,
    "steps": levels.make_steps,
    "regimes": levels.make_regimes,
    "idle": levels.make_idle,
    "cron": schedules.make_cron,
    "ticks": schedules.make_ticks,
    "jobs": schedules.make_jobs,
    "shots": schedules.make_shots,
    "bursts": schedules.make_bursts,
    "disks": ramps.make_disks,
    "leaks": ramps.make_leaks,
    "collections": ramps.make_collections,
}


@dataclass
class GeneratedServers:
    """Servers with the time at which they begin."""

    values: Tensor
    """`(server, series, length) float32`, each series with a deviation of about one."""

    begin_seconds: Tensor
    """`(server,) long`: the time of step 0, counted from a Monday 00:00 UTC."""

    kinds: Tensor
    """`(server, series) long`: the kind of each series, as its position in `names`."""

    names: tuple[str, ...]
    """The names of the kinds that have a share."""


def generate_servers(
    servers: int,
    series: int,
    length: int,
    device: torch.device,
    seed: int,
    shares: Mapping[str, float] | None = None,
) -> GeneratedServers:
    """Return servers with series of five-minute steps; `shares` replaces `SHARES` and need not sum to one.

    The series of a server depend on its load and begin at its own time of the week. Raises `ValueError` for a kind
    that does not exist and for shares that are negative or all zero.
    """
    names, weights = _check_shares(SHARES if shares is None else shares)
    rng = torch.Generator(device=device).manual_seed(seed)
    draws = SeriesDraws(rng, device, length)
    begin = torch.floor(draws.draw_uniform(0, STEPS_A_WEEK, servers, 1)).clamp(max=STEPS_A_WEEK - 1)
    kinds = _draw_kinds(draws, names, torch.tensor(weights, device=device), servers, series)
    values = torch.empty(servers, series, length, device=device)
    for first in range(0, servers, SERVERS_A_CHUNK):
        chunk = slice(first, first + SERVERS_A_CHUNK)
        values[chunk] = _make_chunk(draws, names, kinds[chunk], begin[chunk])
    return GeneratedServers(values, (begin.view(-1) * STEP_SECONDS).long(), kinds, names)


def _check_shares(shares: Mapping[str, float]) -> tuple[tuple[str, ...], list[float]]:
    if unknown := sorted(set(shares) - set(MAKERS) - {"composition"}):
        raise ValueError(f"shares of generated series: unknown kinds {unknown}; expected some of {sorted(SHARES)}")
    if min(shares.values(), default=0.0) < 0 or sum(shares.values()) <= 0:
        raise ValueError(f"shares of generated series: expected numbers of at least 0, not all 0, got {dict(shares)}")
    used = {name: share for name, share in shares.items() if share > 0}
    return tuple(used), list(used.values())


def _draw_kinds(draws: SeriesDraws, names: tuple[str, ...], shares: Tensor, servers: int, series: int) -> Tensor:
    """Return `(server, series)`: a server has few of the kinds, as an idle machine is idle in most of its metrics."""
    whole = torch.tensor([name == "composition" for name in names], device=draws.device)
    taste = -torch.log(draws.draw_uniform(1e-6, 1.0, servers, len(names)))
    weight = (shares * taste**1.5).masked_fill(whole, 0.0)
    if bool((~whole).any()):
        kinds = torch.multinomial(weight, series, replacement=True, generator=draws.rng)
    else:
        kinds = torch.zeros(servers, series, dtype=torch.long, device=draws.device)
    composed = draws.draw_chance(float(shares[whole].sum() / shares.sum()), servers, 1)
    return torch.where(composed, whole.long().argmax(), kinds)


def _make_chunk(draws: SeriesDraws, names: tuple[str, ...], kinds: Tensor, begin: Tensor) -> Tensor:
    servers, series = kinds.shape
    loads = make_loads(draws, begin)
    made = torch.zeros(servers * series, draws.length, device=draws.device)
    for number, name in enumerate(names):
        rows = torch.nonzero((kinds == number).view(-1)).view(-1)
        if len(rows) == 0:
            continue
        server = rows // series
        if name == "composition":
            made[rows] = compose_servers(draws, len(rows) // series, series).flatten(0, 1)
        else:
            made[rows] = scale_to_unit(MAKERS[name](SeriesRows(draws, begin[server], loads[server])))
    composed = torch.tensor([name == "composition" for name in names], device=draws.device)[kinds[:, 0]].view(-1, 1, 1)
    values = made.view(servers, series, draws.length)
    return scale_to_unit(torch.where(composed, values, disturb_servers(draws, values)))
