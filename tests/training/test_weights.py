"""Weights are read whole or not at all, and never by running what the file says."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from stretto.training.augment import normalize
from stretto.training.nets import make_net
from stretto.training.weights import load_weights

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def make(classes: int = 4, base: int = 4) -> torch.nn.Module:
    return make_net("resnet", classes, (3, 16, 16), blocks=1, base=base)


def written(path: Path, state: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    elif path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.safetensors", "a.npz"])
def test_every_kind_of_file_gives_the_weights_back(tmp_path, name):
    saved, model = make(), make()
    path = written(tmp_path / name, saved.state_dict())
    assert load_weights(model, path) == () and same(model, saved)


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_wrapped_state_dicts_are_unwrapped(tmp_path, key, prefix):
    saved, model = make(), make()
    state = {prefix + name: tensor for name, tensor in saved.state_dict().items()}
    load_weights(model, written(tmp_path / "a.pt", state if key is None else {key: state, "epoch": 3}))
    assert same(model, saved)


def test_batch_counters_may_be_missing_and_half_precision_is_widened(tmp_path):
    saved, model = make(), make()
    state = {k: v.half() for k, v in saved.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_weights(model, written(tmp_path / "a.safetensors", state))
    assert model.conv1.weight.dtype == torch.float32
    assert torch.allclose(model.conv1.weight, saved.conv1.weight, atol=1e-3)


def test_weights_that_do_not_fit_are_listed_and_change_nothing(tmp_path):
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = make(base=8).state_dict()
    state["extra.weight"] = state.pop("conv1.weight")
    expected = (
        r"a\.pt doesn't fit the network: 1 missing: conv1\.weight; 1 unexpected: extra\.weight; "
        r"\d+ of another shape: bn1\.weight \(8,\) in the file, \(4,\) in the network, .* and \d+ more"
    )
    with pytest.raises(ValueError, match=expected):
        load_weights(model, written(tmp_path / "a.pt", state), skip_mismatched=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_classifier_for_other_classes_is_skipped_only_when_asked(tmp_path):
    saved, model = make(classes=9), make(classes=4)
    path = written(tmp_path / "a.npz", saved.state_dict())
    with pytest.raises(ValueError, match=r"2 of another shape: linear\.weight \(9, 16\) in the file, \(4, 16\)"):
        load_weights(model, path)
    classifier = model.linear.weight.clone()
    assert load_weights(model, path, skip_mismatched=True) == ("linear.weight", "linear.bias")
    assert torch.equal(model.linear.weight, classifier) and torch.equal(model.conv1.weight, saved.conv1.weight)


def test_skipping_does_not_hide_a_network_of_other_widths(tmp_path):
    path = written(tmp_path / "a.pt", make(base=8).state_dict())
    with pytest.raises(ValueError, match=r"of another shape: layer1\.0\.conv1\.weight"):
        load_weights(make(), path, skip_mismatched=True)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("absent.pt", None, r"absent\.pt: no such file of weights"),
        ("a.pt", b"", r"a\.pt: the file is empty"),
        ("a.pt", b"not weights at all", r"a\.pt: "),
        ("a.safetensors", b"not weights at all", r"a\.safetensors: not a readable safetensors file"),
        ("a.npz", b"not weights at all", r"a\.npz: not an \.npz archive"),
        ("a.onnx", b"not weights at all", r"weights of kind '\.onnx' aren't known; allowed are \.safetensors, \.npz"),
    ],
)
def test_unreadable_file_is_named(tmp_path, name, contents, message):
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        load_weights(make(), tmp_path / name)


def test_cut_off_torch_file_is_named(tmp_path):
    path = written(tmp_path / "a.pt", make().state_dict())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"a\.pt: "):
        load_weights(make(), path)


def test_pickled_objects_are_refused(tmp_path):
    torch.save(make(), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"whole\.pt: .*Python objects besides tensors, which could run code"):
        load_weights(make(), tmp_path / "whole.pt")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"objects\.npz: can't be read as arrays of numbers"):
        load_weights(make(), tmp_path / "objects.npz")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([1, 2], "holds a list, not a filled state dict"),
        ({}, "holds a dict, not a filled state dict"),
        ({"epoch": 3}, r"not a state dict: epoch \(int\) aren't tensors"),
    ],
)
def test_other_contents_are_refused(tmp_path, saved, message):
    torch.save(saved, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        load_weights(make(), tmp_path / "a.pt")


def test_pretrained_resnet20_keeps_its_accuracy_on_cifar_photos():
    if not (SHARED / "cifar10.zip").exists():
        pytest.skip("needs ../shared/data/cifar10.zip and pretrained/resnet20_cifar10.npz")
    model = make_net("resnet", 10, (3, 32, 32), blocks=3, shortcut="pad")
    load_weights(model, SHARED / "pretrained" / "resnet20_cifar10.npz")
    with zipfile.ZipFile(SHARED / "cifar10.zip") as archive:
        names = sorted(
            name
            for name in archive.namelist()
            if name.startswith("test/") and name.endswith(("17.jpg", "57.jpg", "97.jpg"))
        )
        photos = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names])
    classes = sorted({name.split("/")[1] for name in names})
    x = normalize(torch.from_numpy(photos).permute(0, 3, 1, 2), 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        found = model.eval()(x).argmax(1)
    right = found == torch.tensor([classes.index(name.split("/")[1]) for name in names])
    assert right.float().mean() == pytest.approx(0.81, abs=0.07)  # 300 photos: standard error 0.023
