"""Augmentation moves pixels as it says, sample by sample, and repeats exactly from the same seed."""

import numpy as np
import pytest
import torch
from stretto.training.augment import (
    AUGMENTS,
    Augment,
    Batches,
    make_augment,
    normalize,
    random_erase,
    random_flip,
    random_jitter,
    random_resized_crop,
    random_shift,
)
from stretto.training.data import Split


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 64, channels: int = 3, height: int = 12, width: int = 10) -> torch.Tensor:
    return torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=seeded(9))


def split(count: int = 50) -> Split:
    return Split(images(count).numpy(), np.arange(count, dtype=np.int64))


def batches(count: int = 50, **options) -> Batches:
    options = {"batch_size": 8, "shuffle": True, "augment": AUGMENTS["photo"]} | options
    return Batches(split(count), scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), **options)


EVERYTHING = Augment(crop_scale=0.5, flip=0.5, shift=2, jitter=0.3, erase=0.5)


@pytest.mark.parametrize("augment", [*AUGMENTS.values(), EVERYTHING], ids=[*AUGMENTS, "everything"])
@pytest.mark.parametrize("channels", [1, 3])
def test_augment_keeps_shape_and_input_and_repeats_from_the_same_seed(augment, channels):
    x = images(channels=channels)
    before = x.clone()
    first, second, other = (augment(x, seeded(seed)) for seed in (1, 1, 2))
    assert first.shape == x.shape and torch.equal(x, before)
    assert torch.equal(first, second)
    assert torch.equal(first, other) == (augment == Augment())


@pytest.mark.parametrize("augment", [AUGMENTS["cifar"], AUGMENTS["digits"], Augment(erase=1.0)])
def test_moving_pixels_alone_keeps_uint8(augment):
    assert augment(images(), seeded()).dtype == torch.uint8


def test_flip_mirrors_the_asked_share_of_samples():
    x = images(count=400)
    flipped = random_flip(x, 0.25, seeded())
    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    assert torch.equal(flipped[~mirrored], x[~mirrored])
    assert 60 < mirrored.sum() < 140


@pytest.mark.parametrize("reflect", [False, True])
def test_shift_moves_each_sample_by_its_own_whole_pixels(reflect):
    x = images(count=200)
    shifted = random_shift(x, 2, reflect, seeded())
    moves = set()
    for sample, before in zip(shifted.numpy(), x.numpy(), strict=True):
        mode = "reflect" if reflect else "constant"
        padded = np.pad(before, ((0, 0), (2, 2), (2, 2)), mode=mode)
        found = [
            (i, j) for i in range(5) for j in range(5) if np.array_equal(padded[:, i : i + 12, j : j + 10], sample)
        ]
        assert len(found) == 1
        moves.update(found)
    assert len(moves) == 25


def test_shift_that_cannot_be_mirrored_is_refused():
    with pytest.raises(ValueError, match="a shift of 10 can't be filled by mirroring an image of 12×10"):
        random_shift(images(), 10, True, seeded())


def test_resized_crop_of_everything_is_the_image_itself():
    x = images()
    assert torch.allclose(random_resized_crop(x, 1.0, 1.0, seeded()), x.float(), atol=1e-3)


def test_resized_crop_shows_the_asked_share_of_a_gradient():
    ramp = torch.linspace(0, 1, 100).expand(500, 1, 100, 100)
    cropped = random_resized_crop(torch.cat([ramp, ramp.transpose(2, 3)], 1), 0.25, 4 / 3, seeded())
    width = cropped[:, 0].amax(dim=(1, 2)) - cropped[:, 0].amin(dim=(1, 2))
    height = cropped[:, 1].amax(dim=(1, 2)) - cropped[:, 1].amin(dim=(1, 2))
    area, ratio = width * height, width / height
    assert 0.22 < area.min() < 0.3 and 0.9 < area.max() <= 1
    assert 0.72 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.38


def test_jitter_of_nothing_changes_nothing_and_stays_within_its_factor():
    x = images()
    assert torch.allclose(random_jitter(x, 0.0, seeded()), x.float(), atol=1e-3)
    grey = torch.full((300, 1, 4, 4), 100, dtype=torch.uint8)
    jittered = random_jitter(grey, 0.2, seeded())
    assert 80 <= jittered.min() < 82 and 118 < jittered.max() <= 120.01
    assert torch.allclose(jittered, jittered[:, :, :1, :1], rtol=1e-5)


def test_erase_fills_one_rectangle_with_the_mean_of_the_channel():
    x = images(count=200, height=20, width=20)
    erased = random_erase(x, 0.5, 0.25, seeded())
    changed = (erased != x).any(dim=1)
    share = changed.flatten(1).float().mean(1)
    assert share.max() <= 0.27 and 0.3 < (share > 0).float().mean() < 0.6
    for sample, before, place in zip(erased, x, changed, strict=True):
        for channel in range(3):
            filled = sample[channel][place]
            assert torch.all(filled == before[channel].float().mean().to(torch.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, r"flip 1\.5 isn't in \[0, 1\]"),
        ({"crop_scale": 0.0}, r"crop_scale 0\.0 isn't in \(0, 1\]"),
        ({"shift": -1}, "shift -1 at least 0"),
        ({"crop_ratio": 0.5}, r"crop_ratio 0\.5 must be at least 1"),
    ],
)
def test_option_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)


def test_unknown_augmentation_names_the_nearest():
    assert make_augment("photo") is AUGMENTS["photo"]
    with pytest.raises(
        ValueError, match=r"no augmentation 'cifer' \(did you mean 'cifar'\?\).*none, digits, cifar, photo"
    ):
        make_augment("cifer")


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64])
def test_normalize_is_scaled_less_mean_over_std(kind):
    x = images().to(kind)
    before = x.clone()
    expected = (x.double() / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([1, 2, 4]).view(3, 1, 1)
    found = normalize(x, 1 / 255, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    assert found.dtype == torch.float32 and torch.allclose(found.double(), expected, atol=1e-6)
    assert torch.equal(x, before)


def test_normalize_refuses_other_numbers_of_channels():
    with pytest.raises(ValueError, match="3 channels need as many means and stds; there are 1 and 1"):
        normalize(images(), 1 / 255, (0.5,), (0.5,))


def test_epoch_holds_every_image_once_with_its_label():
    plain = batches(augment=Augment())
    labels = torch.cat([y for _, y in plain])
    assert sorted(labels.tolist()) == list(range(50)) != labels.tolist()
    pixels = torch.cat([x for x, _ in plain])
    assert torch.equal(pixels, normalize(torch.from_numpy(split().x)[labels], 1 / 255, plain.mean, plain.std))


def test_unshuffled_batches_keep_the_order():
    assert torch.cat([y for _, y in batches(shuffle=False)]).tolist() == list(range(50))


@pytest.mark.parametrize(("drop_last", "expected"), [(False, 7), (True, 6)])
def test_drop_last_leaves_out_the_batch_that_is_not_full(drop_last, expected):
    found = list(batches(drop_last=drop_last))
    assert len(found) == len(batches(drop_last=drop_last)) == expected
    assert len(found[-1][1]) == (8 if drop_last else 2)


def test_batch_depends_on_seed_epoch_and_index_alone():
    uncut = batches(seed=3)
    list(uncut)
    uncut.set_epoch(2)
    epoch = list(uncut)
    resumed = batches(seed=3)
    resumed.set_epoch(2)
    assert torch.equal(resumed.batch(4)[0], epoch[4][0]) and torch.equal(resumed.batch(4)[1], epoch[4][1])
    for other in (batches(seed=4, epoch=2), batches(seed=3, epoch=1)):
        assert not torch.equal(other.batch(4)[1], epoch[4][1])


def test_same_image_is_augmented_otherwise_in_the_next_epoch():
    alone = batches(shuffle=False)
    first = alone.batch(0)[0]
    alone.set_epoch(1)
    assert not torch.equal(alone.batch(0)[0], first)


def test_batches_leave_the_global_generators_alone():
    before = torch.get_rng_state()
    list(batches())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0 must be 1 or more"),
        ({"batch_size": 64, "drop_last": True}, "50 images give no batch of 64"),
    ],
)
def test_batches_without_a_batch_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        batches(**options)


def test_batch_outside_the_epoch_is_refused():
    with pytest.raises(IndexError, match="batch 7 isn't in 0 to 6"):
        batches().batch(7)
