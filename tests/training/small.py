"""A small supernet and data for it, which every test of training may change as it likes."""

from collections import OrderedDict

import torch
from stretto.training.supernet import Supernet, make_supernet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def small_net(
    classes: int = 4,
    widths: tuple[float, ...] = WIDTHS,
    dropout: float = 0.0,
    momentum: float | None = 0.1,
    seed: int = 0,
    shared_stem: bool = True,
) -> Supernet:
    """Three exits on 6×6 images; a stem and stages `conv1` … `conv3` with batch norms, dropout, and `head`."""
    torch.manual_seed(seed)
    layers: dict[str, nn.Module] = {}
    for stage, (before, after, stride) in enumerate(((1, 8, 1), (8, 32, 2), (32, 32, 1), (32, 32, 1))):
        layers[f"conv{stage}"] = nn.Conv2d(before, after, 3, stride, padding=1)
        layers[f"norm{stage}"], layers[f"relu{stage}"] = nn.BatchNorm2d(after, momentum=momentum), nn.ReLU()
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "drop": nn.Dropout(dropout)}
    layers["head"] = nn.Linear(32, classes)
    model, example = nn.Sequential(OrderedDict(layers)), torch.zeros(1, 1, 6, 6)
    return make_supernet(model, example, widths, ("relu1", "relu2"), "linear", shared_stem=shared_stem)


def small_data(samples: int = 48, classes: int = 4) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(samples) % classes
    x = torch.randn(samples, 1, 6, 6, generator=generator) + y.view(-1, 1, 1, 1)
    return TensorDataset(x, y)


def small_loader(batch: int = 16) -> DataLoader:
    return DataLoader(small_data(), batch, shuffle=True)
