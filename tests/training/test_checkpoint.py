"""A checkpoint is whole or refused, and never runs code."""

import os
import pickle

import pytest
import torch
from stretto.training import checkpoint
from stretto.training.checkpoint import CheckpointError, load_checkpoint, load_state, save_checkpoint

from .small import small_net

STATE = {"optimizer": {}, "epoch": 2, "options": {"lr": 0.1}, "history": [{"loss": 1.0}], "about": {"net": "small"}}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, small_net(), **STATE)
    return path


def test_what_is_saved_is_loaded(saved):
    content = load_checkpoint(saved)
    assert {name: content[name] for name in STATE} == STATE
    net = small_net(seed=1)
    load_state(saved, net, content)
    expected = small_net().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"b\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "b.pt")


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no folder .*none; make it first"):
        save_checkpoint(tmp_path / "none" / "a.pt", small_net(), **STATE)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_cut_off_file_is_refused_and_named(saved, keep):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"a\.pt: not a readable checkpoint: "):
        load_checkpoint(saved)


def test_changed_byte_is_found_wherever_it_matters(saved):
    """In a tensor's numbers, in the pickle, and in the directory of the zip; only padding may change unseen."""
    whole, expected = saved.read_bytes(), load_checkpoint(saved)
    for place in range(0, len(whole), len(whole) // 200):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            content = load_checkpoint(saved)
        except CheckpointError as error:
            assert str(saved) in str(error)
        else:
            assert all(torch.equal(value, expected["state"][name]) for name, value in content["state"].items())
            assert content["about"] == STATE["about"]


class Bomb:
    def __init__(self, target) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_checkpoint_is_not_run(tmp_path, write):
    path, target = tmp_path / "bomb.pt", tmp_path / "exploded"
    write({"format": 2, "state": Bomb(target)}, path)
    with pytest.raises(CheckpointError, match=r"bomb\.pt: (holds more than tensors .* run code|not a readable)"):
        load_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state": {}}, r"holds \['state'\], expected"),
        ([1, 2], "holds list, expected"),
        ({"format": 1, **dict.fromkeys(checkpoint.KEYS[1:])}, "its format is 1; train again"),
    ],
)
def test_other_files_of_torch_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=rf"not a stretto checkpoint of format 2: {message}"):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize("when", ["save", "fsync"])
def test_failed_save_leaves_the_previous_file_and_nothing_else(saved, monkeypatch, when):
    before = saved.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(*{"save": (torch, "save"), "fsync": (os, "fsync")}[when], fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(saved, small_net(seed=1), **STATE)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["a.pt"]


def test_checkpoint_without_a_shared_stem_is_told_from_one_with(saved, tmp_path):
    path, net = tmp_path / "b.pt", small_net(shared_stem=False)
    save_checkpoint(path, net, **STATE)
    load_state(path, small_net(seed=1, shared_stem=False), load_checkpoint(path))
    with pytest.raises(CheckpointError, match=r"b\.pt: was made for shared_stem False, this supernet has True"):
        load_state(path, small_net(), load_checkpoint(path))


def test_refused_checkpoint_leaves_the_network_as_it_was(saved):
    net = small_net(classes=7, seed=1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"6 of its tensors differ, such as shared\.head\.weight, \(4, 32\) there"
    ):
        load_state(saved, net, load_checkpoint(saved))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
