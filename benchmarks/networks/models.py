"""The five networks in PyTorch, from configurations alone: random weights, activations of a trained one's size."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """How a network is made, what it takes (one row, without the batch axis), and what it gives."""

    make: Callable[[], Any]
    input: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    about: str


class Named(nn.Module):  # type: ignore[misc, unused-ignore]
    """Takes one tensor by position and gives some of a model's results, in order."""

    def __init__(self, model: Any, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = outputs

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        """Return the named results."""
        results = self.model(pixel_values=values)
        return tuple(results[name] for name in self.names)


class UNet3d(nn.Module):  # type: ignore[misc, unused-ignore]
    """The 3-D U-Net of Çiçek et al. (2016): `(batch, 1, D, H, W)` to `(batch, classes, D, H, W)`."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128), classes: int = 3) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList([_convolutions(1, widths[0])] + [_convolutions(*pair) for pair in pairs])
        self.pool = nn.MaxPool3d(2)
        self.up = nn.ModuleList(nn.ConvTranspose3d(high, low, 2, stride=2) for low, high in reversed(pairs))
        self.join = nn.ModuleList(_convolutions(2 * low, low) for low, _ in reversed(pairs))
        self.head = nn.Conv3d(widths[0], classes, 1)

    def forward(self, volume: Tensor) -> Tensor:
        """Return a score for each class and voxel."""
        skipped = []
        for level, block in enumerate(self.down):
            volume = block(volume if level == 0 else self.pool(volume))
            skipped.append(volume)
        for up, join, skip in zip(self.up, self.join, reversed(skipped[:-1]), strict=True):
            volume = join(torch.cat([skip, up(volume)], dim=1))
        return self.head(volume)  # type: ignore[no-any-return, unused-ignore]


def _convolutions(before: int, after: int) -> nn.Sequential:
    layers: list[Any] = []
    for width in (before, after):
        layers += [nn.Conv3d(width, after, 3, padding=1, bias=False), nn.BatchNorm3d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def make_mlp() -> nn.Module:
    """Tabular features to scores."""
    return nn.Sequential(
        *(nn.Linear(64, 512), nn.LayerNorm(512), nn.GELU()),
        *(nn.Linear(512, 512), nn.LayerNorm(512), nn.GELU(), nn.Linear(512, 10), nn.Softmax(dim=-1)),
    )


def make_cnn() -> nn.Module:
    """A small classifier of 32 x 32 images."""
    layers: list[Any] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def make_clip() -> nn.Module:
    """CLIP's vision tower, ViT-B/32."""
    library: Any = importlib.import_module("transformers")
    config = library.CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        projection_dim=512,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=224,
        patch_size=32,
        attn_implementation="eager",
    )
    return Named(library.CLIPVisionModelWithProjection(config), ("image_embeds", "last_hidden_state"))


def make_detr() -> nn.Module:
    """DETR on ResNet-50."""
    library: Any = importlib.import_module("transformers")
    config = library.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=library.ResNetConfig(out_features=["stage4"]),
        num_labels=91,
        attn_implementation="eager",
    )
    return Named(library.DetrForObjectDetection(config), ("logits", "pred_boxes"))


NETWORKS = {
    "mlp": Network(make_mlp, "features", (64,), ("scores",), "MLP of three layers, layer norm and GELU"),
    "cnn": Network(make_cnn, "image", (3, 32, 32), ("scores",), "CNN of three convolutions"),
    "unet3d": Network(UNet3d, "volume", (1, 64, 64, 64), ("scores",), "3-D U-Net of four levels, 64 x 64 x 64 voxels"),
    "clip": Network(
        make_clip, "image", (3, 224, 224), ("image_embeds", "last_hidden_state"), "CLIP's vision tower, ViT-B/32"
    ),
    "detr": Network(make_detr, "image", (3, 480, 640), ("logits", "pred_boxes"), "DETR on ResNet-50, 480 x 640"),
}


def make_network(name: str, seed: int = 0) -> tuple[Any, Tensor]:
    """Return a network, ready to be run, and 24 rows to run it on."""
    torch.manual_seed(seed)
    network = NETWORKS[name]
    rows = make_rows(24, network.shape)
    model = network.make().eval()
    with torch.no_grad(), normalised(model):
        model(rows[:2])
    return model, rows


def make_rows(count: int, shape: tuple[int, ...]) -> Tensor:
    """Return `(count, *shape)` of unit variance that differ in the coarse and in the fine, as pictures do."""
    rows = torch.randn(count, *shape)
    if len(shape) > 1:
        mode = {3: "bilinear", 4: "trilinear"}[len(shape)]
        coarse = torch.randn(count, shape[0], *(4 for _ in shape[1:]))
        rows = 0.3 * rows + 1.5 * nn.functional.interpolate(coarse, size=shape[1:], mode=mode)
    return rows


@contextmanager
def normalised(model: nn.Module) -> Iterator[None]:
    """Give each batch norm, frozen or not, the statistics of what runs through it; else random weights overflow."""

    def take_statistics(module: Any, given: tuple[Tensor, ...]) -> None:
        axes = [0, *range(2, given[0].ndim)]
        module.running_mean.copy_(given[0].mean(dim=axes))
        module.running_var.copy_(given[0].var(dim=axes))

    norms = [each for each in model.modules() if getattr(each, "running_var", None) is not None]
    hooks = [each.register_forward_pre_hook(take_statistics) for each in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
