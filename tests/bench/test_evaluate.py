"""A bundle is evaluated on the splits that its training had."""

from types import SimpleNamespace

import numpy as np
import pytest
from stretto.bench.evaluate import read_splits
from stretto.training.data import CALIBRATION, load_data


@pytest.mark.parametrize(("provenance", "holdout"), [({"holdout": 0.3}, 0.3), ({}, CALIBRATION)])
def test_calibration_images_are_those_that_training_held_out(provenance: dict[str, float], holdout: float) -> None:
    bundle = SimpleNamespace(manifest=SimpleNamespace(input=SimpleNamespace(shape=(1, 8, 8)), provenance=provenance))
    name, pixels, labels = read_splits(bundle, "digits", ("calibration", "test"), lambda *told: None)  # type: ignore
    data = load_data("digits", calibration=holdout)
    assert name == "digits"
    assert np.array_equal(pixels, np.concatenate([data.splits["calibration"].x, data.splits["test"].x]))
    assert np.array_equal(labels, np.concatenate([data.splits["calibration"].y, data.splits["test"].y]))
