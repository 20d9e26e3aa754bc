"""What `fit` can be told, and which of it is refused."""

import difflib
from dataclasses import dataclass, field, fields
from typing import Any

from .losses import LossOptions
from .optimizers import OPTIMIZERS, SCHEDULES
from .option_types import check_types


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How to train. `lr` is for the loss of one width: gradients of several widths are averaged.

    optimizer: "sgd" (Nesterov momentum) or "adamw" (`momentum` is its first beta); weight decay is off for norms and
        biases.
    schedule: "one_cycle" (rises over the first 30 % of the steps, then falls to zero; Smith & Topin 2018), "cosine"
        (5 % rise) or "constant".
    clip_norm: largest norm of the gradient of all parameters; None doesn't cut it.
    autocast, channels_last: True, False, or None to take bf16 and channels-last where a trial step is faster with them.
    recalibrate: batches that settle every width's batch norms after the last epoch; 0 leaves the running averages.
    device: "auto" is CUDA where there is one.
    """

    epochs: int = 10
    lr: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    clip_norm: float | None = 5.0
    seed: int = 0
    autocast: bool | None = None
    channels_last: bool | None = None
    recalibrate: int = 50
    device: str = "auto"
    loss: LossOptions = field(default_factory=LossOptions)

    def __post_init__(self) -> None:
        check_types(self)
        if self.epochs < 1:
            raise ValueError(f"epochs {self.epochs}: must be 1 or more")
        for name in ("lr", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} {value}: must be above 0")
        for name in ("weight_decay", "recalibrate", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} {getattr(self, name)}: must be 0 or more")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum}: must be in [0, 1)")
        for name, table in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in table:
                raise ValueError(f"{name} '{getattr(self, name)}' isn't known; one of {', '.join(table)}")


def fit_options(**given: Any) -> FitOptions:
    """Options from one flat set of names, those of the loss among them.

    Raises:
        TypeError: an unknown name; says the nearest valid one. A value of another type than the option's.
        ValueError: a value that an option can't have.
    """
    loss_names = {f.name for f in fields(LossOptions)}
    names = {f.name for f in fields(FitOptions)} - {"loss"} | loss_names
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; options are {', '.join(sorted(names))}"
            raise TypeError(f"unknown training option '{name}'{hint}")
    loss = LossOptions(**{k: v for k, v in given.items() if k in loss_names})
    return FitOptions(loss=loss, **{k: v for k, v in given.items() if k not in loss_names})
