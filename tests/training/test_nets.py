"""Built-in nets have their published sizes, and anyone's net is found, called and checked by one stated rule."""

import subprocess
import sys

import pytest
import torch
from stretto.training.nets import NETS, make_net, read_options

USER_MODULE = """
import torch
from torch import nn

class Flat(nn.Module):
    def __init__(self, num_classes, in_size, bias=True, scale=1.0, hidden=None, name="a"):
        super().__init__()
        self.linear = nn.Linear(in_size[0] * in_size[1], num_classes, bias)
        self.given = (bias, scale, hidden, name)
        self.frozen = nn.BatchNorm1d(num_classes).eval()

    def forward(self, x):
        return self.frozen(self.linear(x.mean(1).flatten(1)))

    @classmethod
    def small(cls, classes, input_shape):
        return cls(classes, input_shape[1:])

def ready(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
def loose(**options): return Flat(in_size=(8, 8), **options)
def two_outputs(classes): return Pair()
def needy(classes, layers): return None
def nothing(): return None

class Pair(nn.Module):
    def forward(self, x): return x, x

instance = nn.Linear(1, 1)
number = 3
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A module `user_nets` in the current directory."""
    (tmp_path / "user_nets.py").write_text(USER_MODULE)
    (tmp_path / "broken_nets.py").write_text("import a_library_that_is_absent")
    (tmp_path / "failing_nets.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("user_nets", None)


def parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 32, 32), (3, 65, 97), (2, 28, 28)])
def test_every_built_in_net_takes_images_of_any_size(name, input_shape):
    net = make_net(name, 7, input_shape, **({"multiplier": 0.25} if name == "mobilenet" else {}))
    assert net.training
    assert net(torch.randn(2, *input_shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "classes", "input_shape", "options", "expected"),
    [
        ("lenet300", 10, (1, 28, 28), {}, 266_610),
        ("lenet5", 10, (1, 28, 28), {}, 61_706),
        ("mobilenet", 1000, (3, 224, 224), {}, 4_231_976),
        ("mobilenet", 1000, (3, 224, 224), {"multiplier": 0.5}, 1_331_592),
        ("resnet", 10, (3, 32, 32), {"blocks": 3, "shortcut": "pad"}, 269_722),
        ("resnet", 10, (3, 32, 32), {"blocks": 3}, 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
    ],
)
def test_parameter_counts_are_the_published_ones(name, classes, input_shape, options, expected):
    assert parameters(make_net(name, classes, input_shape, **options)) == expected


@pytest.mark.parametrize("blocks", [1, 2, 5])
@pytest.mark.parametrize("base", [5, 16])
def test_resnet_of_any_blocks_and_base_has_its_depth(blocks, base):
    net = make_net("resnet", 10, (3, 32, 32), blocks=blocks, base=base)
    main = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(main) + 1 == 6 * blocks + 2
    assert net.linear.in_features == 4 * base


@pytest.mark.parametrize(
    ("side", "options", "expected"),
    [(32, {}, 4), (224, {}, 7), (32, {"small_input": False}, 1), (100, {"small_input": "true"}, 13)],
)
def test_mobilenet_shrinks_small_images_less(side, options, expected):
    net = make_net("mobilenet", 10, (3, side, side), multiplier=0.25, **options).eval()
    with torch.no_grad():
        assert net.blocks(net.stem(torch.zeros(1, 3, side, side))).shape[2:] == (expected, expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {"blocks": 0}, "blocks 0, base 16 and stride 1 must be 1 or more"),
        ("resnet", {"shortcut": "none"}, "shortcut 'none' isn't known; there are projection, pad"),
        ("mobilenet", {"multiplier": 0}, "multiplier 0 must be above 0"),
        (
            "resnet",
            {"block": 3},
            r"no option 'block' \(did you mean 'blocks'\?\); its options are blocks, base, shortcut",
        ),
        ("resnet", {"blocks": "many"}, "option blocks=many isn't int, as its default 2 is"),
        ("resnet", {"blocks": "2.5"}, r"option blocks=2\.5 isn't int"),
        ("resnet", {"in_channels": 4}, "in_channels comes from the data; leave the option out"),
    ],
)
def test_option_that_does_not_fit_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_net(name, 10, (3, 32, 32), **options)


def test_too_small_image_for_lenet5_is_refused():
    with pytest.raises(ValueError, match="3×9 is too small for lenet5; 4×4 or more"):
        make_net("lenet5", 10, (1, 3, 9))


def test_class_in_the_current_directory_gets_what_its_signature_names(user_module):
    net = make_net("user_nets:Flat", 5, (3, 8, 6), bias="false", scale="2", hidden="3", name="7")
    assert net.linear.weight.shape == (5, 48)
    assert net.given == (False, 2.0, 3, "7") and isinstance(net.given[1], float)


def test_check_leaves_training_modes_and_statistics_as_they_were(user_module):
    net = make_net("user_nets:Flat", 5, (3, 8, 8))
    assert net.training and not net.frozen.training
    assert net.frozen.num_batches_tracked == 0


@pytest.mark.parametrize("name", ["user_nets:Flat.small", "user_nets:ready"])
def test_class_methods_and_functions_without_parameters_are_called_too(user_module, name):
    assert make_net(name, 10, (1, 8, 8))(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_callable_that_hides_the_classes_behind_keywords_gets_them_as_option(user_module):
    assert make_net("user_nets:loose", 4, (1, 8, 8), num_classes="4").linear.out_features == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnett", r"no net 'resnett' \(did you mean 'resnet'\?\); built-in are resnet, mobilenet, lenet300, lenet5"),
        ("user_nets:", "no net 'user_nets:'"),
        ("absent_nets:make", r"no module 'absent_nets' in .* or among the installed packages"),
        ("broken_nets:make", "broken_nets can't be imported: No module named 'a_library_that_is_absent'"),
        ("failing_nets:make", "failing_nets can't be imported: ZeroDivisionError"),
        ("user_nets:Flt", r"user_nets \(.*user_nets\.py\) has no 'Flt' \(did you mean 'Flat'\?\)"),
        ("user_nets:number", "user_nets:number is a int; a function or class"),
        ("user_nets:instance", "user_nets:instance is a Linear; a function or class"),
        ("user_nets:needy", r"needs layers, which isn't known from the data; give it as an option \(layers=…\)"),
        ("user_nets:nothing", r"user_nets:nothing\(\) made a NoneType; a torch.nn.Module is needed"),
        ("user_nets:two_outputs", r"two_outputs\(classes=10\) gives a tuple for two images; logits of shape \(2, 10\)"),
    ],
)
def test_net_that_cannot_be_made_says_what_was_looked_for(user_module, name, message):
    with pytest.raises(ValueError, match=message):
        make_net(name, 10, (1, 8, 8))


def test_other_number_of_classes_is_refused(user_module):
    with pytest.raises(ValueError, match=r"gives \(2, 10\) for two images; logits of shape \(2, 3\) are needed"):
        make_net("user_nets:ready", 3, (1, 8, 8))


def test_forward_that_fails_is_reported_with_the_shape(user_module):
    with pytest.raises(ValueError, match=r"num_classes=10.* fails on images of \(C, H, W\) = \(1, 9, 9\)"):
        make_net("user_nets:loose", 10, (1, 9, 9), num_classes=10)


def test_options_of_the_command_line_are_pairs():
    assert read_options(["blocks=3", "path=a=b", "empty="]) == {"blocks": "3", "path": "a=b", "empty": ""}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["blocks"], "net option 'blocks' isn't key=value"),
        (["=3"], "net option '=3' isn't key=value"),
        (["base=1", "base=2"], "net option base is given twice: 1 and 2"),
        (["classes=3"], "net option classes comes from the data"),
    ],
)
def test_malformed_options_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        read_options(pairs)


def test_listing_the_nets_leaves_torch_unimported():
    code = "import sys; from stretto.training.nets import NETS; assert len(NETS) > 2 and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
