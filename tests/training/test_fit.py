"""A run learns, is the same however often it is cut off, and refuses what it can't do."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stretto.training import autotune
from stretto.training.augment import AUGMENTS, Batches
from stretto.training.autotune import bf16_pays
from stretto.training.checkpoint import CheckpointError, load_checkpoint
from stretto.training.data import load_data
from stretto.training.fit import FitOptions, Progress, fit, fit_options
from stretto.training.losses import LossOptions
from stretto.training.optimizers import SCHEDULES, decay_groups, make_optimizer
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from .small import small_data, small_loader, small_net

PLAIN = {"autocast": False, "channels_last": False}  # by trial, what is taken would depend on the machine
QUICK = {"epochs": 3, "lr": 0.05, **PLAIN}


def digit_batches() -> Batches:
    digits = load_data("digits")
    split = digits.splits["train"]
    few = type(split)(split.x[:160, :, 1:7, 1:7], split.y[:160])
    how = {"augment": AUGMENTS["digits"], "shuffle": True, "drop_last": True}
    return Batches(few, 32, digits.scale, digits.mean, digits.std, **how)


RUNS = {
    "plain": {},
    "augmented": {"sandwich": 1, "inplace_distillation": 0.5, "equilibrium": True},
    "adamw": {"optimizer": "adamw", "lr": 0.002, "autocast": True, "channels_last": True, "schedule": "cosine"},
}


def run(name: str, checkpoint: Path | None = None, on_progress=None) -> dict[str, torch.Tensor]:
    """One of `RUNS` from the same beginning; what the network is afterwards."""
    net = small_net(classes=10, dropout=0.3)
    loader = digit_batches() if name == "augmented" else small_loader()
    fit(net, loader, **QUICK | RUNS[name], checkpoint=checkpoint, on_progress=on_progress)
    return net.state_dict()


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


class Cut(Exception):
    pass


def cut(*_: object) -> None:
    raise Cut


class CutAt:
    """Ends a run, as a crash would, at a batch counted over all epochs."""

    def __init__(self, batch: int) -> None:
        self.left = batch

    def __call__(self, progress: Progress) -> None:
        self.left -= 1
        if self.left == 0:
            raise Cut


@pytest.mark.parametrize("name", RUNS)
def test_run_cut_off_again_and_again_equals_an_uncut_one_bit_by_bit(name, tmp_path):
    expected = run(name)
    for batch in (1, 5, 4):
        with pytest.raises(Cut):
            run(name, tmp_path / "cut.pt", CutAt(batch))
    assert_same(run(name, tmp_path / "cut.pt"), expected)


def test_run_cut_off_while_norms_are_settled_equals_an_uncut_one(tmp_path, monkeypatch):
    expected = run("plain")
    with monkeypatch.context() as patched, pytest.raises(Cut):
        patched.setattr("stretto.training.fit.recalibrate_bn", cut)
        run("plain", tmp_path / "cut.pt")
    assert load_checkpoint(tmp_path / "cut.pt")["epoch"] == 3
    assert_same(run("plain", tmp_path / "cut.pt"), expected)


def test_killed_process_goes_on_to_the_same_result(tmp_path):
    """SIGKILL, which no handler sees, after the fifth of nine batches."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.training.test_fit import run
left = [5]
def kill(progress):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
run("plain", Path(sys.argv[1]), kill)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "killed.pt"], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert load_checkpoint(tmp_path / "killed.pt")["epoch"] == 1
    assert_same(run("plain", tmp_path / "killed.pt"), run("plain"))


def test_seconds_are_those_of_the_passes_that_finished_and_outlive_a_resume(tmp_path, monkeypatch):
    """Two seconds a batch, three batches an epoch; cut off in the middle of the second."""
    now, cut_at = [0.0], CutAt(5)
    monkeypatch.setattr("stretto.training.fit.time", SimpleNamespace(monotonic=lambda: now[0]))

    def spend(progress: Progress) -> None:
        now[0] += 2.0
        cut_at(progress)

    with pytest.raises(Cut):
        run("plain", tmp_path / "cut.pt", spend)
    assert [entry["seconds"] for entry in load_checkpoint(tmp_path / "cut.pt")["history"]] == [6.0]
    run("plain", tmp_path / "cut.pt", spend)
    history = load_checkpoint(tmp_path / "cut.pt")["history"]
    assert [entry["seconds"] for entry in history] == [6.0, 6.0, 6.0]
    assert all(entry.keys() == {"epoch", "loss", "accuracy", "seconds"} for entry in history)


def test_finished_run_is_not_trained_again(tmp_path):
    first = run("plain", tmp_path / "a.pt")
    again = run("plain", tmp_path / "a.pt", on_progress=lambda progress: pytest.fail("trained"))
    assert_same(again, first)


def test_what_ran_before_in_the_process_does_not_matter(tmp_path):
    first = run("plain")
    torch.rand(7)
    assert_same(run("plain"), first)


def test_another_seed_gives_another_result():
    nets = [small_net(), small_net()]
    for seed, net in enumerate(nets):
        fit(net, small_loader(), seed=seed, **QUICK)
    assert not torch.equal(*(net.shared.get_submodule("head").weight for net in nets))


class DrawnBatches(BatchSampler):
    """Draws its batches itself."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(range(48), 16, drop_last=False)
        self.generator = generator

    def __iter__(self):
        return iter(torch.randperm(48, generator=self.generator).view(3, 16).tolist())


class ByEpoch(RandomSampler):
    """Shuffled by the epoch's number, as a distributed sampler is."""

    def __init__(self) -> None:
        super().__init__(range(48))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        return iter(torch.randperm(48, generator=torch.Generator().manual_seed(self.epoch)).tolist())


DRAWN_BY = {
    "loader": lambda generator: {"batch_size": 16, "shuffle": True, "generator": generator},
    "sampler": lambda generator: {"batch_size": 16, "sampler": RandomSampler(range(48), generator=generator)},
    "batch_sampler": lambda generator: {"batch_sampler": DrawnBatches(generator)},
    "its_sampler": lambda generator: {
        "batch_sampler": BatchSampler(RandomSampler(range(48), generator=generator), 16, drop_last=False)
    },
    "epoch": lambda generator: {"batch_sampler": BatchSampler(ByEpoch(), 16, drop_last=False)},
}


@pytest.mark.parametrize("drawn_by", DRAWN_BY)
def test_loader_with_a_generator_of_its_own_resumes_the_same(drawn_by, tmp_path):
    def train(checkpoint: Path | None, on_progress=None) -> dict[str, torch.Tensor]:
        net = small_net()
        generator = torch.Generator().manual_seed(torch.randint(1000, ()).item())
        loader = DataLoader(small_data(), **DRAWN_BY[drawn_by](generator))
        fit(net, loader, checkpoint=checkpoint, on_progress=on_progress, **QUICK)
        return net.state_dict()

    with pytest.raises(Cut):
        train(tmp_path / "a.pt", CutAt(5))
    assert_same(train(tmp_path / "a.pt"), train(None))


def test_every_width_and_exit_learns():
    net = small_net()
    history = fit(net, small_loader(), epochs=12, lr=0.1, weight_decay=0.0, **PLAIN)
    x, y = small_data().tensors
    assert history[-1]["loss"] < 0.5 * history[0]["loss"] and [entry["epoch"] for entry in history] == [*range(1, 13)]
    assert history[-1]["accuracy"] > 0.9 and not net.training
    for width in net.widths:
        for logits in net(x, width):
            assert float((logits.argmax(1) == y).float().mean()) > 0.6


def test_progress_is_told_after_every_batch():
    told = []
    fit(small_net(), small_loader(), on_progress=told.append, **QUICK)
    assert [(p.epoch, p.batch) for p in told] == [(e, b) for e in (1, 2, 3) for b in (1, 2, 3)]
    assert all((p.epochs, p.batches) == (3, 3) and 0 <= p.accuracy <= 1 and p.loss > 0 for p in told)
    assert told[-1].left_s == 0 < told[0].left_s


def test_weight_decay_spares_norms_and_biases():
    net = small_net()
    decayed, spared = decay_groups(net.parameters(), 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in net.named_parameters()}
    assert sorted(names[id(p)] for p in decayed["params"]) == sorted(
        f"shared.{layer}.weight"
        for layer in ("conv0", "conv1", "conv2", "conv3", "head", "exits.1.linear", "exits.2.linear")
    )
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_frozen_parameters_are_not_optimized():
    net = small_net()
    net.shared.get_submodule("head").weight.requires_grad_(False)
    optimizer = make_optimizer("sgd", net, 0.1, 0.9, 0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(net.parameters())) - 1


@pytest.mark.parametrize("name", ["one_cycle", "cosine"])
def test_schedules_rise_then_fall_to_nothing(name):
    factors = [SCHEDULES[name](step / 200) for step in range(200)]
    top = factors.index(max(factors))
    assert factors[top] == pytest.approx(1.0, abs=0.01) and factors[0] < 0.1 and factors[-1] < 0.001
    assert factors[: top + 1] == sorted(factors[: top + 1]) and factors[top:] == sorted(factors[top:], reverse=True)


def test_learning_rate_is_that_of_one_width_however_many_there_are():
    """Every width moves the first exit's bias about alike, so four together must move it as far as one alone."""
    moved = []
    for widths in ((1.0,), (0.25, 0.5, 0.75, 1.0)):
        net = small_net(widths=widths)
        bias = net.shared.get_submodule("exits.1.linear").bias
        before = bias.detach().clone()
        fit(net, DataLoader(small_data(), 48), epochs=1, schedule="constant", clip_norm=None, recalibrate=0, **PLAIN)
        moved.append(float((bias.detach() - before).norm()))
    assert 0.5 < moved[1] / moved[0] < 2


def test_unknown_option_names_the_nearest():
    with pytest.raises(TypeError, match="unknown training option 'epoch'; did you mean 'epochs'"):
        fit(small_net(), small_loader(), epoch=3)
    with pytest.raises(TypeError, match="unknown training option 'sandwhich'; did you mean 'sandwich'"):
        fit_options(sandwhich=1)
    with pytest.raises(TypeError, match=r"unknown training option 'zzz'; options are .*depth_weights, .*epochs"):
        fit_options(zzz=1)


def test_flat_options_reach_the_loss():
    assert fit_options(epochs=2, sandwich=1) == FitOptions(epochs=2, loss=LossOptions(sandwich=1))


def test_options_and_single_ones_together_are_refused():
    with pytest.raises(TypeError, match=r"either options or single ones \(lr\), not both"):
        fit(small_net(), small_loader(), FitOptions(), lr=0.1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs 0: must be 1 or more"),
        ({"lr": 0}, "lr 0: must be above 0"),
        ({"lr": float("nan")}, "lr nan: must be above 0"),
        ({"clip_norm": -1}, "clip_norm -1: must be above 0"),
        ({"weight_decay": -1}, "weight_decay -1: must be 0 or more"),
        ({"momentum": 1}, r"momentum 1: must be in \[0, 1\)"),
        ({"optimizer": "adam"}, "optimizer 'adam' isn't known; one of sgd, adamw"),
        ({"schedule": "step"}, "schedule 'step' isn't known; one of one_cycle, cosine, constant"),
    ],
)
def test_impossible_options_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        fit_options(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"autocast": "false"}, "autocast 'false': must be true or false or None"),
        ({"channels_last": 1}, "channels_last 1: must be true or false or None"),
        ({"momentum": "abc"}, "momentum 'abc': must be a number"),
        ({"lr": True}, "lr True: must be a number"),
        ({"lr": None}, "lr None: must be a number"),
        ({"epochs": 2.5}, "epochs 2.5: must be a whole number"),
        ({"epochs": True}, "epochs True: must be a whole number"),
        ({"clip_norm": "none"}, "clip_norm 'none': must be a number or None"),
        ({"optimizer": ["sgd"]}, r"optimizer \['sgd'\]: must be a text"),
        ({"sandwich": "2"}, "sandwich '2': must be a whole number or None"),
        ({"equilibrium": "no"}, "equilibrium 'no': must be true or false"),
        ({"depth_weights": "1,2"}, "depth_weights '1,2': must be a list of numbers or None"),
        ({"depth_weights": [1, "2"]}, r"depth_weights \[1, '2'\]: must be a list of numbers or None"),
    ],
)
def test_options_of_another_type_are_refused(given, message):
    with pytest.raises(TypeError, match=message):
        fit_options(**given)
    with pytest.raises(TypeError, match=r"loss .*: must be LossOptions"):
        FitOptions(loss={"sandwich": 1})


def test_whole_numbers_lists_and_none_are_taken_where_they_fit():
    options = fit_options(lr=1, clip_norm=None, autocast=None, sandwich=None, depth_weights=[1, 0.5])
    assert options.loss.depth_weights == (1, 0.5)


def test_checkpoint_of_other_options_is_refused_and_named(tmp_path):
    run("plain", tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"other options: lr is 0.05 there, 0.01 here; use the same or another file"
    ):
        fit(small_net(classes=10, dropout=0.3), small_loader(), **QUICK | {"lr": 0.01}, checkpoint=tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="sandwich is None there, 1 here"):
        fit(small_net(classes=10), small_loader(), **QUICK, sandwich=1, checkpoint=tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="batches is 3 there, 6 here"):
        fit(small_net(classes=10), small_loader(8), **QUICK, checkpoint=tmp_path / "a.pt")


def test_checkpoint_of_another_network_is_refused_and_named(tmp_path):
    fit(small_net(), small_loader(), **QUICK, checkpoint=tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"a\.pt: was made for widths \[0.25, 0.5, 0.75, 1.0\], .* has \[0.5, 1.0\]"
    ):
        fit(small_net(widths=(0.5, 1.0)), small_loader(), **QUICK, checkpoint=tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"of another network: .* shared.head.weight, \(4, 32\) there, \(10, 32\)"
    ):
        fit(small_net(classes=10), small_loader(), **QUICK, checkpoint=tmp_path / "a.pt")


def test_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path):
    net = small_net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    broken = [(torch.full((4, 1, 6, 6), torch.nan), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 0; a lower lr than 0.05 may help"):
        fit(net, broken, **QUICK, checkpoint=tmp_path / "a.pt")
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert load_checkpoint(tmp_path / "a.pt")["epoch"] == 0


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(1, 6, 6), 0)])


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (iter([]), "the loader has no length .*; give one that has"),
        (DataLoader(Endless(), 1), "the loader has no length .*; give one that has"),
        (DataLoader(small_data(), 64, drop_last=True), "the loader gives no batch"),
    ],
)
def test_loaders_without_length_or_batches_are_refused(loader, message):
    with pytest.raises(ValueError, match=message):
        fit(small_net(), loader, **QUICK)


class Once(list):
    """Gives its batches the first time only, as a used-up iterator would."""

    def __iter__(self):
        batches, self[:] = [*super().__iter__()], [None] * len(self)
        return (batch for batch in batches if batch is not None)


def test_loader_that_can_be_read_only_once_is_refused():
    with pytest.raises(ValueError, match="gave no batch in epoch 2; it must give them each time it is iterated"):
        fit(small_net(), Once([small_data().tensors]), **QUICK)


def test_trial_of_bf16_leaves_the_network_as_it_was():
    net = small_net().eval()
    x, y = small_data().tensors
    net(x)[-1].sum().backward()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
    assert bf16_pays(net, x, y) in (True, False)
    assert not net.training
    assert_same(net.state_dict(), state)
    for name, p in net.named_parameters():
        assert p.is_contiguous()
        assert (p.grad is None and grads[name] is None) or torch.equal(p.grad, grads[name])


@pytest.mark.parametrize("faster", [True, False])
def test_bf16_is_taken_where_its_step_is_faster_and_kept_when_resumed(faster, tmp_path, monkeypatch):
    def step_s(net, x, y, dtype):
        return 1.0 if (dtype is not None) == faster else 2.0

    monkeypatch.setattr(autotune, "_step_s", step_s)
    how = {"epochs": 1, "lr": 0.05, "checkpoint": tmp_path / "a.pt"}
    fit(small_net(), small_loader(), **how)
    assert load_checkpoint(tmp_path / "a.pt")["options"]["fast"] == {"autocast": faster, "channels_last": faster}
    monkeypatch.setattr(autotune, "_step_s", lambda *how: pytest.fail("tried again"))
    fit(small_net(), small_loader(), **how)


def test_inputs_that_are_no_images_are_trained_in_float32():
    net = small_net()
    assert not bf16_pays(net, torch.zeros(4, 8), torch.zeros(4, dtype=torch.long))
