"""The separate networks are what the joint step is compared with: the same answers from parameters of their own."""

import numpy as np
import torch
from stretto.bench.train.step import Separate, joint_step, rows, separate_step
from stretto.training.fit import fit_options

from ...training.small import small_data, small_net

X, Y = small_data(16).tensors


def test_separate_networks_answer_what_the_supernet_answers():
    net = small_net().eval()
    for width in net.widths:
        alone = Separate(net, width).eval()
        assert not {p.data_ptr() for p in alone.parameters()} & {p.data_ptr() for p in net.parameters()}
        for found, expected in zip(alone(X), net(X, width), strict=True):
            torch.testing.assert_close(found, expected)


def test_both_steps_change_every_parameter():
    net = small_net().train()
    apart = [Separate(net, width).train() for width in net.widths]
    networks = [net, *apart]
    before = [[p.detach().clone() for p in network.parameters()] for network in networks]
    options = fit_options(lr=0.1)
    joint_step(net, X, Y, options, bf16=False)()
    separate_step(apart, X, Y, options, bf16=False)()
    for network, values in zip(networks, before, strict=True):
        changed = [not torch.equal(p, value) for p, value in zip(network.parameters(), values, strict=True)]
        assert sum(changed) >= 0.75 * len(changed)  # a bias before a batch norm has no gradient


def test_ratios_are_of_the_same_round():
    slow = np.array([[1.0], [2.0], [10.0]])
    times = {"joint": slow, "sandwich of three": 0.5 * slow, "separate": 2 * slow, "separate again": 2 * slow}
    joint, sandwich = rows(times)[-2:]
    assert (joint.value, joint.met) == (0.5, True)
    assert (sandwich.value, sandwich.goal) == (0.25, "≤ 0.85")
    assert joint.control["separate again over separate"]["median"] == 1.0
