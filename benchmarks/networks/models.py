"""The five networks in PyTorch: random weights, and activations of about the size of a trained network's.

Made from configurations; nothing is downloaded.
"""

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
    """A network: its constructor, its input (`shape` is that of one row, without the batch axis) and its outputs."""

    make: Callable[[], Any]
    input: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    about: str


class NamedOutputs(nn.Module):  # type: ignore[misc, unused-ignore]
    """A model with one positional input, whose outputs are some of the wrapped model's results, in order."""

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
        self.down = nn.ModuleList([_make_convolutions(1, widths[0])] + [_make_convolutions(*pair) for pair in pairs])
        self.pool = nn.MaxPool3d(2)
        self.up = nn.ModuleList(nn.ConvTranspose3d(high, low, 2, stride=2) for low, high in reversed(pairs))
        self.join = nn.ModuleList(_make_convolutions(2 * low, low) for low, _ in reversed(pairs))
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


def _make_convolutions(before: int, after: int) -> nn.Sequential:
    layers: list[Any] = []
    for width in (before, after):
        layers += [nn.Conv3d(width, after, 3, padding=1, bias=False), nn.BatchNorm3d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def make_mlp() -> nn.Module:
    """Make an MLP that maps tabular features to scores."""
    return nn.Sequential(
        *(nn.Linear(64, 512), nn.LayerNorm(512), nn.GELU()),
        *(nn.Linear(512, 512), nn.LayerNorm(512), nn.GELU(), nn.Linear(512, 10), nn.Softmax(dim=-1)),
    )


def make_cnn() -> nn.Module:
    """Make a small classifier of 32 x 32 images."""
    layers: list[Any] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def make_clip() -> nn.Module:
    """Make CLIP's vision tower, ViT-B/32."""
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
    return NamedOutputs(library.CLIPVisionModelWithProjection(config), ("image_embeds", "last_hidden_state"))


def make_detr() -> nn.Module:
    """Make DETR on ResNet-50."""
    library: Any = importlib.import_module("transformers")
    config = library.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=library.ResNetConfig(out_features=["stage4"]),
        num_labels=91,
        attn_implementation="eager",
    )
    return NamedOutputs(library.DetrForObjectDetection(config), ("logits", "pred_boxes"))


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
    """Make a network, ready to run, and 24 rows as its input."""
    torch.manual_seed(seed)
    network = NETWORKS[name]
    rows = make_rows(24, network.shape)
    model = network.make().eval()
    with torch.no_grad(), set_norm_statistics(model):
        model(rows[:2])
    return model, rows


def make_rows(count: int, shape: tuple[int, ...]) -> Tensor:
    """Make rows, `(count, *shape)`, that differ in coarse and in fine structure, as images do."""
    rows = torch.randn(count, *shape)
    if len(shape) > 1:
        mode = {3: "bilinear", 4: "trilinear"}[len(shape)]
        coarse = torch.randn(count, shape[0], *(4 for _ in shape[1:]))
        rows = 0.3 * rows + 1.5 * nn.functional.interpolate(coarse, size=shape[1:], mode=mode)
    return rows


@contextmanager
def set_norm_statistics(model: nn.Module) -> Iterator[None]:
    """Set the statistics of each batch norm from its inputs, because random weights would overflow without it."""

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
