"""What a router would have done, from what it says."""

import numpy as np
from stretto.bench.easy.curves import Sides
from stretto.bench.easy.router import ENOUGH, router_curve, sent
from stretto.policies.scores import probabilities
from stretto.runtime.bundle import Bundle

from ...runtime.toy import toy_bundle


def at(enough):
    return int(np.abs(np.array(ENOUGH) - enough).argmin())


def test_the_first_that_is_likely_enough_right_is_taken_else_the_likeliest():
    found = sent(np.array([[0.2, 0.6, 0.9], [0.7, 0.1, 0.2]]))
    assert found[:, at(0.5)].tolist() == [1, 0]
    assert found[:, at(0.8)].tolist() == [2, 0]
    assert found[:, at(0.99)].tolist() == [2, 0]


def test_thresholds_go_from_the_safest_on():
    assert list(ENOUGH) == sorted(ENOUGH, reverse=True)


def test_curve_counts_the_router_and_the_point_that_each_sample_went_to(tmp_path):
    toy = toy_bundle(tmp_path / "toy.stretto", router=True, provenance={"router": {"macs": 9}})
    bundle, x = Bundle.open(toy.path), toy.samples(40)
    logits = {point: toy.logits(x, point.depth, point.width) for point in bundle.routed}
    labels, chances = np.arange(40) % 4, probabilities(toy.odds(x))
    curve = router_curve(bundle, "fp32", (logits, logits), Sides(labels, labels), Sides(chances, chances))
    for enough in (0.3, 0.9):
        ends = [curve.routes[end][-1] for end in curve.ends.test[:, at(enough)]]
        right = [logits[point][sample].argmax() == labels[sample] for sample, point in enumerate(ends)]
        assert curve.right.test[:, at(enough)].tolist() == right
        mean = np.mean([bundle.point(*point).macs + 9 for point in ends])
        assert np.isclose(curve.mean_macs("test")[at(enough)], mean)
