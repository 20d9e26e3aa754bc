"""The LeNets that pruning papers measure on: three linear layers, and two convolutions in two sizes."""

import math

from torch import nn

SMALLEST_SIDE = 4
# Below this side the second convolution is padded, or nothing would be left of the image.
UNPADDED_SIDE = 16


def lenet300(classes: int, input_shape: tuple[int, int, int], hidden1: int = 300, hidden2: int = 100) -> nn.Sequential:
    """LeNet-300-100: the image flattened, two hidden layers, ReLU.

    Reference: LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), hidden1),
        nn.ReLU(),
        nn.Linear(hidden1, hidden2),
        nn.ReLU(),
        nn.Linear(hidden2, classes),
    )


def lenet5(classes: int, input_shape: tuple[int, int, int], base: int = 6) -> nn.Sequential:
    """LeNet-5 with ReLU and max pooling: 5×5 convolutions of `base` and 8/3 · `base` channels, 120 and 84 units.

    On 28×28 images it is the customary 61,706 parameters. Images of any size from 4×4.
    """
    in_channels, height, width = input_shape
    _check_side("lenet5", height, width)
    padding = 0 if min(height, width) >= UNPADDED_SIDE else 2
    second = base * 8 // 3
    left = math.prod((side // 2 - 4 + 2 * padding) // 2 for side in (height, width))
    return nn.Sequential(
        nn.Conv2d(in_channels, base, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(base, second, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * left, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def lenet5caffe(classes: int, input_shape: tuple[int, int, int]) -> nn.Sequential:
    """LeNet-5 as Caffe has it, which Han et al. (Deep Compression, ICLR 2016) prune: 20 and 50 channels, 500 units.

    On 28×28 images it has 431,080 parameters. Images of any size from 4×4.
    """
    in_channels, height, width = input_shape
    _check_side("lenet5caffe", height, width)
    padding = 0 if min(height, width) >= UNPADDED_SIDE else 2
    left = math.prod(((side - 4 + 2 * padding) // 2 - 4 + 2 * padding) // 2 for side in (height, width))
    return nn.Sequential(
        nn.Conv2d(in_channels, 20, 5, padding=padding),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5, padding=padding),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * left, 500),
        nn.ReLU(),
        nn.Linear(500, classes),
    )


def _check_side(net: str, height: int, width: int) -> None:
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"an image of {height}×{width} is too small for {net}; {SMALLEST_SIDE}×{SMALLEST_SIDE} or more"
        )
