"""Every point's logits are those of its steps, sample by sample in order."""

import numpy as np
import pytest
from stretto.policies.situation import OperatingPoint
from stretto.runtime.bundle import Bundle
from stretto.training.evaluate import accuracy, point_logits

from ..runtime.toy import Toy, toy_bundle


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("evaluate") / "toy.stretto", widths=(0.5, 1.0), depths=3)


@pytest.fixture(scope="module")
def bundle(toy):
    return Bundle.open(toy.path)


def batches(toy: Toy, sizes: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(toy.samples(n, seed=n), rng.integers(len(toy.manifest.classes), size=n)) for n in sizes]


def test_logits_are_those_of_each_point_in_the_batches_order(toy, bundle):
    data = batches(toy, (4, 3))
    logits, labels = point_logits(bundle, data)
    assert set(logits) == {OperatingPoint(width, depth, "fp32") for width in (0.5, 1.0) for depth in (1, 2, 3)}
    for point, found in logits.items():
        expected = np.concatenate([toy.logits(x, point.depth, point.width) for x, _ in data])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(labels, np.concatenate([y for _, y in data]))


def test_progress_counts_samples(toy, bundle):
    told = []
    point_logits(bundle, batches(toy, (4, 3, 1)), progress=told.append)
    assert told == [4, 7, 8]


def test_no_data_is_refused(bundle):
    with pytest.raises(ValueError, match="there is no data to evaluate on"):
        point_logits(bundle, [])


def test_data_of_another_shape_is_refused(toy, bundle):
    (x, y), *_ = batches(toy, (4,))
    with pytest.raises(ValueError, match=r"a batch has x \(4,\) and y \(4,\), expected \(n, "):
        point_logits(bundle, [(y.astype(np.float32), y)])
    with pytest.raises(ValueError, match=r"and y \(3,\), expected"):
        point_logits(bundle, [(x, y[:3])])


def test_labels_beyond_the_classes_are_refused(toy, bundle):
    (x, y), *_ = batches(toy, (4,))
    with pytest.raises(ValueError, match=r"labels are .* to 99, the bundle has classes 0 to"):
        point_logits(bundle, [(x, np.where(y == y[0], 99, y))])


def test_accuracy_is_the_share_whose_highest_logit_is_the_label():
    logits = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4], [0.6, 0.5]], np.float32)
    assert accuracy(logits, np.array([1, 0, 0, 1])) == 0.5
