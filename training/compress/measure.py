"""What a network is worth and what it costs, before and after a pass."""

from typing import Any

import numpy as np

from ...runtime.coded import encode
from ..fold import shared_weights
from ..limits import row_scales
from ..task import point_accuracies
from .subject import Subject, count_numbers


def measured(subject: Subject) -> dict[str, Any]:
    """Points with accuracy on the calibration split, MACs and parameters; and of the whole network:

    `parameters`: how many numbers, and `nonzero` of them; `fp32_bytes`: of all of them in 32 bits; `coded_bytes`: of
    all of them as a coded bundle stores weights.
    """
    parameters, nonzero = count_numbers(subject.net)
    return {
        "points": point_accuracies(subject.net, subject.batches("calibration")),
        "parameters": parameters,
        "nonzero": nonzero,
        "fp32_bytes": 4 * parameters,
        "coded_bytes": coded_bytes(subject),
    }


def coded_bytes(subject: Subject) -> int:
    """Weights as `stretto export --coded` stores them, with every width's norms in 16 bits beside them."""
    net = subject.net
    norms = {
        f"{width}/{name}": value.detach().float().cpu().numpy().astype(np.float16)
        for width, own in [("1", net.shared), *net.norms.items()]
        for name, value in own.named_parameters()
        if value.dim() == 1
    }
    weights = {
        name: value for name, value in shared_weights(net.shared, "float32", coded=True).items() if value.ndim > 1
    }
    return len(encode(weights | norms, row_scales(net, subject.limits)))
