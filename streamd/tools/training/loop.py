"""The training loop. One step draws, varies and hides, runs forward and backward, and updates, all on the device.

It is plain PyTorch, because the whole step becomes one CUDA graph that is replayed; the callbacks of a framework would
prevent that. On the CPU the same step runs eagerly. This module writes checkpoints but no engine version.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from streamd.repository.files import replace_file
from streamd.tools.networks.contract import NetworkContract
from streamd.tools.training.config import TrainingConfig
from streamd.tools.training.loss import compute_masked_loss
from streamd.tools.training.pool import SeriesPool

Validate = Callable[[nn.Module], dict[str, float]]


class Trainer:
    """Trains `model` in place, with a running average of its weights; the average is the result."""

    def __init__(
        self, model: nn.Module, contract: NetworkContract, config: TrainingConfig, pool: SeriesPool, folder: Path
    ) -> None:
        self.config, self.contract, self.pool, self.folder = config, contract, pool, folder
        self.device = pool.device
        self.model = model.to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        on_gpu = self.device.type == "cuda"
        self.rate = torch.tensor(0.0, device=self.device)
        self.optimizer = torch.optim.AdamW(
            _group_parameters(self.model, config.weight_decay),
            lr=self.rate if on_gpu else 0.0, betas=(0.9, 0.98), capturable=on_gpu, fused=on_gpu or None,
        )  # fmt: skip
        self.levels = torch.tensor(contract.quantiles, device=self.device)
        self.targets = torch.tensor(contract.target_index, device=self.device)
        self.drawn = self.targets if getattr(model, "only_targets", False) else None
        """The features that the network looks at; `None` if at all of them."""
        self.losses = torch.zeros((), device=self.device)
        self.decay = torch.zeros((), device=self.device)
        self.done = 0
        self.curve: list[dict[str, float]] = []
        self.network = torch.compile(self.model) if config.compile and on_gpu else self.model
        self.draw = torch.compile(self.draw_batch) if config.compile_drawing and on_gpu else self.draw_batch
        self._replay: Callable[[], Any] = self._run_step

    def fit(self, validate: Validate | None = None, *, seconds: float = math.inf, quiet: bool = False) -> None:
        """Train to `config.steps`, or for `seconds` if that is shorter; the learning rate's schedule ends there too.

        A run without a time limit is reproducible from its seed. A resumed run continues at its checkpoint.
        """
        from tqdm import tqdm

        config, began, since = self.config, time.monotonic(), self.done
        self.model.train()
        if self.device.type == "cuda" and self._replay == self._run_step:
            self._capture_graph()
        bar = tqdm(total=config.steps, initial=self.done, disable=quiet, unit="step", mininterval=2.0)
        while self.done < config.steps and time.monotonic() - began < seconds:
            elapsed = (time.monotonic() - began) / seconds
            self._set_rates(min(1.0, max(self.done / config.steps, elapsed)))
            self._replay()
            self.done += 1
            bar.update(1)
            if self.done % 50 == 0 and self.device.type == "cuda":
                torch.cuda.synchronize()  # Replays are asynchronous; the clock must measure work, not launches.
            if self.done % config.validate_every == 0:
                self._record_point(validate, time.monotonic() - began, since)
                bar.set_postfix({k: f"{v:.4f}" for k, v in self.curve[-1].items() if "nPL" in k or k == "loss"})
                since = self.done
                self.save_checkpoint()
        bar.close()
        if self.done > since:
            self._record_point(validate, time.monotonic() - began, since)
        self.save_checkpoint()
        weights = {k: v.detach().cpu().contiguous() for k, v in self.average.state_dict().items()}
        save_file(weights, str(self.folder / "weights.safetensors"))

    def _record_point(self, validate: Validate | None, seconds: float, since: int) -> None:
        """Add a point to the curves: the mean loss since the last point, and the scores of the averaged weights."""
        point = {"step": float(self.done), "seconds": round(seconds, 1)}
        point["loss"] = round(float(self.losses) / max(1, self.done - since), 5)
        self.losses.zero_()
        if validate is not None:
            point |= validate(self.average)
        self.curve.append(point)

    def _set_rates(self, progress: float) -> None:
        """Set the learning rate (linear warm-up, then a cosine to zero) and the decay of the average."""
        config = self.config
        warm = min(1.0, (self.done + 1) / max(1, config.warmup))
        rate = config.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * progress))
        if self.device.type == "cuda":
            self.rate.fill_(rate)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        self.decay.fill_(1.0 - min(config.average, (1.0 + self.done) / (10.0 + self.done)))

    def draw_batch(self) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the inputs, the future `(batch, horizon, target)`, and the targets' weights `(batch, target)`.

        A target without a value in its context has the weight 0.
        """
        config, contract, vary = self.config, self.contract, self.config.augmentation
        context, size, device = contract.context_length, config.batch, self.device
        draw = vary.vary_series(self.pool.draw_windows(size, config.natural_share, self.drawn), context)
        x = vary.add_incidents(draw.values, context)
        past = vary.add_absurd_values(vary.hide_values(x[:, :context]))
        future = x[:, context:] if self.drawn is self.targets else x[:, context:].index_select(2, self.targets)
        seen = (~past.isnan()).any(1)
        seen = seen if self.drawn is self.targets else seen.index_select(1, self.targets)
        calendar = vary.make_calendar(draw, contract.horizon, contract.step_seconds)
        changed = torch.rand(size, 1, device=device) < vary.status
        status = torch.where(changed, torch.randint(0, contract.statuses, (size, 1), device=device), 0)
        past_cat = torch.zeros(size, context, 2, dtype=torch.int32, device=device)
        past_cat[..., 1] = status * (torch.rand(size, context, device=device) < 0.5)
        future_cat = torch.zeros(size, contract.horizon, 2, dtype=torch.int32, device=device)
        future_cat[:] = past_cat[:, -1:]
        inputs = [self._place_features(past), past_cat, calendar, future_cat]
        if contract.memory_length:
            inputs.append(self._place_features(vary.hide_memory(draw.memory, past, draw.phase)))
        return inputs, future, seen.float()

    def _place_features(self, drawn: Tensor) -> Tensor:
        """Return `(batch, step, feature)` from the features that were drawn; the others are missing."""
        if self.drawn is None:
            return drawn
        shape = (*drawn.shape[:2], len(self.contract.features))
        return torch.full(shape, torch.nan, device=drawn.device).index_copy(2, self.drawn, drawn)

    def _run_step(self) -> None:
        config = self.config
        with torch.no_grad():
            inputs, future, weight = self.draw()
        half = config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            forecast = self.network(*inputs)
        loss = compute_masked_loss(forecast.float(), future, weight, self.levels)
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        with torch.no_grad():
            self.losses += loss.detach()
            mine: Any = list(self.average.parameters())
            theirs: Any = list(self.model.parameters())
            change: Any = torch._foreach_sub(theirs, mine)
            torch._foreach_mul_(change, self.decay)
            torch._foreach_add_(mine, change)

    def _capture_graph(self) -> None:
        """Capture the whole step as one CUDA graph, after three eager steps that allocate all buffers.

        The learning rate is zero during these steps. The state that they change is restored afterwards.
        """
        before = copy.deepcopy(self.model.state_dict()), copy.deepcopy(self.optimizer.state_dict())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run_step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run_step()
        self._restore_state(*before)
        self.losses.zero_()
        self._replay = graph.replay

    def _restore_state(self, weights: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        """Copy the state back into the same tensors, because the CUDA graph refers to them."""
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(weights[name])
            if not self.done:
                for name, value in self.average.state_dict().items():
                    value.copy_(weights[name])
            saved = list(optimizer["state"].values())
            for i, state in enumerate(self.optimizer.state.values()):
                for key, value in state.items():
                    value.copy_(saved[i][key]) if saved else value.zero_()

    def save_checkpoint(self) -> None:
        """Write a checkpoint without pickle: tensors in safetensors, numbers in JSON.

        Each file is written whole or not at all. A process killed between the two leaves the new tensors beside the old
        number of steps.
        """
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, state in enumerate(self.optimizer.state.values()):
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "checkpoint.partial"
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, str(partial))
        partial.replace(self.folder / "checkpoint.safetensors")
        state = {"done": self.done, "curve": self.curve, "config": self.config.describe()}
        replace_file(self.folder / "checkpoint.json", json.dumps(state, indent=1).encode())

    def load_checkpoint(self) -> bool:
        """Load the checkpoint of the folder and return `True`; return `False` without a checkpoint.

        Raises `ValueError` if the checkpoint was made with another configuration.
        """
        path = self.folder / "checkpoint.json"
        if not path.exists():
            return False
        state = json.loads(path.read_text())
        if state["config"] != json.loads(json.dumps(self.config.describe())):
            raise ValueError(f"{path}: made with another configuration, expected this run's or an empty folder")
        tensors = load_file(str(self.folder / "checkpoint.safetensors"))

        def select(prefix: str) -> dict[str, Tensor]:
            return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}

        self.model.load_state_dict(select("model."))
        self.average.load_state_dict(select("average."))
        rows = [select(f"optimizer.{i}.") for i in range(len(list(self.model.parameters())))]
        saved = self.optimizer.state_dict()
        saved["state"] = {i: row for i, row in enumerate(rows) if row}
        self.optimizer.load_state_dict(saved)
        if self.device.type == "cuda":
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.done, self.curve = state["done"], state["curve"]
        return True


def _group_parameters(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return the parameters in two groups: matrices with weight decay; norms, biases and embeddings without."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    matrices = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in embeddings]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in embeddings]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
