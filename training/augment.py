"""Image augmentation on whole batches of tensors, and batches that are the same whenever they are asked for."""

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .data import Split


def normalize(x: Tensor, scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Stored pixels (N, C, H, W) as float32: (x · scale − mean) / std, `mean` and `std` per channel."""
    if not len(mean) == len(std) == x.shape[1]:
        raise ValueError(f"{x.shape[1]} channels need as many means and stds; there are {len(mean)} and {len(std)}")
    factor = torch.tensor([scale / value for value in std], device=x.device).view(-1, 1, 1)
    offset = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=x.device).view(-1, 1, 1)
    return x.to(torch.float32).mul_(factor).sub_(offset) if x.dtype != torch.float32 else x * factor - offset


@dataclass(frozen=True, slots=True)
class Augment:
    """Random changes to a batch, each sample drawn by itself; applied in the order of the fields.

    Args:
        crop_scale: smallest share of the area that a random resized crop keeps, in (0, 1]; 1 is no crop.
        crop_ratio: largest aspect ratio of that crop, and one over it the smallest; at least 1.
        flip: probability of a horizontal flip.
        shift: furthest shift in pixels along each axis (pad and crop).
        reflect: fill what a shift uncovers with the mirrored image instead of zeros.
        jitter: brightness, contrast and (of RGB) saturation are each multiplied by 1 − jitter to 1 + jitter.
        erase: probability of filling a random rectangle with the image's own mean.
        erase_scale: largest share of the area that the rectangle covers, in (0, 1].
    """

    crop_scale: float = 1.0
    crop_ratio: float = 4 / 3
    flip: float = 0.0
    shift: int = 0
    reflect: bool = False
    jitter: float = 0.0
    erase: float = 0.0
    erase_scale: float = 0.25

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} isn't in [0, 1]")
        for name in ("crop_scale", "erase_scale"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} isn't in (0, 1]")
        if self.crop_ratio < 1 or self.shift < 0:
            raise ValueError(f"crop_ratio {self.crop_ratio} must be at least 1 and shift {self.shift} at least 0")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copy of `x` (N, C, H, W), pixels from 0 up; float32 where values are mixed, else of x's dtype.

        All chance comes from `generator`, so its state decides the result.
        """
        if self.crop_scale < 1:
            x = random_resized_crop(x, self.crop_scale, self.crop_ratio, generator)
        if self.flip > 0:
            x = random_flip(x, self.flip, generator)
        if self.shift > 0:
            x = random_shift(x, self.shift, self.reflect, generator)
        if self.jitter > 0:
            x = random_jitter(x, self.jitter, generator)
        if self.erase > 0:
            x = random_erase(x, self.erase, self.erase_scale, generator)
        return x


AUGMENTS = {
    "none": Augment(),
    "digits": Augment(shift=1),
    "cifar": Augment(flip=0.5, shift=4, reflect=True),
    "photo": Augment(crop_scale=0.35, flip=0.5, jitter=0.2),
}


def make_augment(name: str) -> Augment:
    """The augmentation of that name in `AUGMENTS`."""
    if name not in AUGMENTS:
        close = difflib.get_close_matches(name, AUGMENTS, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(f"no augmentation '{name}'{hint}; there are {', '.join(AUGMENTS)}")
    return AUGMENTS[name]


def _uniform(x: Tensor, low: float, high: float, generator: torch.Generator, count: int = 1) -> Tensor:
    """(`count`, N, 1, 1, 1) float32, one number a sample."""
    drawn = torch.rand(count, len(x), 1, 1, 1, generator=generator, device=generator.device)
    return drawn.to(x.device) * (high - low) + low


def random_flip(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Mirror each sample left to right with that probability."""
    return torch.where(_uniform(x, 0, 1, generator)[0] < probability, x.flip(3), x)


def random_shift(x: Tensor, shift: int, reflect: bool, generator: torch.Generator) -> Tensor:
    """Move each sample by up to `shift` pixels along each axis; mirrored pixels or zeros come in from the border."""
    height, width = x.shape[2:]
    if reflect and shift >= min(height, width):
        raise ValueError(f"a shift of {shift} can't be filled by mirroring an image of {height}×{width}; shift less")
    padded = F.pad(x, (shift,) * 4, mode="reflect" if reflect else "constant")
    drawn = torch.randint(0, 2 * shift + 1, (2, len(x)), generator=generator, device=generator.device).to(x.device)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(x), device=x.device), :, drawn[0], drawn[1]]


def random_resized_crop(x: Tensor, scale: float, ratio: float, generator: torch.Generator) -> Tensor:
    """Enlarge a random rectangle (`scale` to 1 of the area, aspect ratio 1/`ratio` to `ratio`) to the full size.

    Bilinear, which never averages too little here: the rectangle is at most the image.
    """
    area = _uniform(x, scale, 1, generator).flatten()
    stretch = torch.exp(_uniform(x, -math.log(ratio), math.log(ratio), generator).flatten() / 2)
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    middle_x, middle_y = _uniform(x, -1, 1, generator, count=2).flatten(1)
    zero = torch.zeros_like(area)
    to_x = torch.stack([width, zero, middle_x * (1 - width)], dim=1)
    to_y = torch.stack([zero, height, middle_y * (1 - height)], dim=1)
    grid = F.affine_grid(torch.stack([to_x, to_y], dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x.to(torch.float32), grid, padding_mode="border", align_corners=False)


def random_jitter(x: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation (RGB only) of each sample; values aren't cut off at the range."""
    brightness, contrast, saturation = _uniform(x, 1 - jitter, 1 + jitter, generator, count=3)
    x = x.to(torch.float32) * brightness
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = torch.lerp(middle, x, contrast)
    if x.shape[1] != 3:
        return x
    luma = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(3, 1, 1)  # ITU-R BT.601
    return torch.lerp((x * luma).sum(dim=1, keepdim=True), x, saturation)


def random_erase(x: Tensor, probability: float, scale: float, generator: torch.Generator) -> Tensor:
    """Fill a rectangle of up to `scale` of the area with the sample's channel means, with that probability.

    Reference: Zhong et al., Random Erasing Data Augmentation, AAAI 2020 (there filled with noise).
    """
    erased = _uniform(x, 0, 1, generator)[0] < probability
    for axis in (2, 3):
        size = x.shape[axis]
        length = (_uniform(x, 0, 1, generator)[0] * math.sqrt(scale) * size).round()
        start = (_uniform(x, 0, 1, generator)[0] * (size - length)).round()
        place = torch.arange(size, device=x.device).view(-1, 1) if axis == 2 else torch.arange(size, device=x.device)
        erased = erased & (place >= start) & (place < start + length)
    fill = x.to(torch.float32).mean(dim=(2, 3), keepdim=True).to(x.dtype)
    return torch.where(erased, fill, x)


@dataclass
class Batches:
    """Batches (x float32 normalised, y int64) of a split; a new order and new augmentation in every epoch.

    Batch `index` of an epoch depends on the seed, the epoch and the index alone, so a run that is resumed in the
    middle sees what an uncut one saw: `for index in range(done, len(batches)): x, y = batches.batch(index)`.

    Args:
        scale, mean, std: as in `Data`.
        shuffle: False keeps the split's own order.
        drop_last: leave out a last batch that isn't full.
    """

    split: Split
    batch_size: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment = AUGMENTS["none"]
    shuffle: bool = False
    drop_last: bool = False
    seed: int = 0
    epoch: int = 0
    _order: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size} must be 1 or more")
        if len(self) == 0:
            raise ValueError(f"{len(self.split)} images give no batch of {self.batch_size}; make batch_size smaller")
        self.set_epoch(self.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order and augmentation the following batches have."""
        self.epoch = epoch
        count = len(self.split)
        self._order = np.random.default_rng([self.seed, epoch]).permutation(count) if self.shuffle else np.arange(count)

    def __len__(self) -> int:
        return len(self.split) // self.batch_size if self.drop_last else -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.batch(index) for index in range(len(self)))

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Batch `index` (from 0) of the current epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} isn't in 0 to {len(self) - 1}")
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        seed = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1, np.uint64)
        x = self.augment(torch.from_numpy(self.split.x[chosen]), torch.Generator().manual_seed(int(seed[0])))
        return normalize(x, self.scale, self.mean, self.std), torch.from_numpy(self.split.y[chosen])
