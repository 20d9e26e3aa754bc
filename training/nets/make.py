"""From a name and options to a classifier: `resnet`, or `package.module:callable` for anyone's."""

import ast
import difflib
import importlib
import inspect
import operator
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

NETS = {
    "resnet": f"{__package__}.resnet:ResNet",
    "mobilenet": f"{__package__}.mobilenet:mobilenet",
    "lenet300": f"{__package__}.lenet:lenet300",
    "lenet5": f"{__package__}.lenet:lenet5",
    "lenet5caffe": f"{__package__}.lenet:lenet5caffe",
}

# What the data decides; a callable gets those of them that its signature names.
GIVEN = ("classes", "num_classes", "in_channels", "input_shape", "in_size")
# how the command line may write them, besides as Python does
WORDS = {"true": True, "false": False, "none": None}


def make_net(
    name: str, /, classes: int, input_shape: tuple[int, int, int], *, any_classes: bool = False, **options: Any
) -> "nn.Module":
    """Build a classifier and check that it maps images (N, C, H, W) to logits (N, `classes`).

    Args:
        name: a name of `NETS`, or `package.module:callable` (a function or class), looked for in the current
            directory and among the installed packages.
        classes, input_shape: number of classes, and (C, H, W) of one image. The callable is called with those of
            the keywords `classes`, `num_classes`, `in_channels`, `input_shape` (C, H, W) and `in_size` (H, W) that
            its signature names, and with nothing else but the options.
        any_classes: a callable that names no number of classes may give any number of logits.
        options: further keyword arguments, which the signature must name or take as `**` (so a callable that hides
            `num_classes` behind `**` gets it as an option). A string, as from the command line, is read as the type
            of the parameter's default.

    Raises:
        ValueError: no such net, module, callable or option, or the result isn't such a classifier; says which.
    """
    builder = _find(name)
    given = dict(zip(GIVEN, (classes, classes, input_shape[0], input_shape, input_shape[1:]), strict=True))
    try:
        parameters = inspect.signature(builder).parameters
    except ValueError as error:
        raise ValueError(f"net {name} has no signature that Python can read; wrap it in a function") from error
    arguments = {key: value for key, value in given.items() if key in parameters}
    twice = sorted(arguments.keys() & options.keys())
    if twice:
        raise ValueError(f"net {name}: {', '.join(twice)} comes from the data; leave the option out")
    arguments |= {key: _option(name, parameters, key, value) for key, value in options.items()}
    _check_complete(name, parameters, arguments)
    net = builder(**arguments)
    what = f"net {name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    free = any_classes and not {"classes", "num_classes"} & parameters.keys()
    _check(net, what, None if free else classes, input_shape)
    return net


def read_options(pairs: Iterable[str]) -> dict[str, str]:
    """Options of the command line, each `key=value`, for `make_net`."""
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"net option '{pair}' isn't key=value, such as blocks=3")
        if key in options:
            raise ValueError(f"net option {key} is given twice: {options[key]} and {value}")
        if key in ("classes", "input_shape"):
            raise ValueError(f"net option {key} comes from the data; leave it out")
        options[key] = value
    return options


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _find(name: str) -> Callable[..., Any]:
    import torch

    module_name, colon, attribute = NETS.get(name, name).partition(":")
    if not colon or not module_name or not attribute:
        raise ValueError(
            f"no net '{name}'{_hint(name, NETS)}; built-in are {', '.join(NETS)}, your own is package.module:callable"
        )
    module = _import(module_name)
    try:
        found = operator.attrgetter(attribute)(module)
    except AttributeError as error:
        callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(
            f"module {module_name} ({getattr(module, '__file__', 'built in')}) has no '{attribute}'"
            f"{_hint(attribute, callables)}; its callables are {', '.join(sorted(callables)[:20]) or 'none'}"
        ) from error
    if isinstance(found, torch.nn.Module) or not callable(found):
        raise ValueError(f"{name} is a {type(found).__name__}; a function or class that makes the network is needed")
    return found


def _import(module_name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:  # a console script doesn't look there by itself; `python -m` does
        sys.path.insert(0, here)
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ValueError(
                f"no module '{error.name}' in {here} or among the installed packages (looking for {module_name})"
            ) from error
        raise ValueError(f"module {module_name} can't be imported: {error}; install what it needs") from error
    except Exception as error:  # whatever the user's own module does when it is imported
        raise ValueError(f"module {module_name} can't be imported: {type(error).__name__}: {error}") from error


def _option(name: str, parameters: Any, key: str, value: Any) -> Any:
    if key not in parameters:
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return read_value(value) if isinstance(value, str) else value
        allowed = [known for known in parameters if known not in GIVEN]
        raise ValueError(
            f"net {name} has no option '{key}'{_hint(key, allowed)}; its options are {', '.join(allowed) or 'none'}"
        )
    default = parameters[key].default
    if not isinstance(value, str) or isinstance(default, str):
        return value
    typed = read_value(value)
    kind = type(default)
    if default is None or default is inspect.Parameter.empty or type(typed) is kind:
        return typed
    if kind is float and type(typed) is int:
        return float(typed)
    raise ValueError(f"net {name}: option {key}={value} isn't {kind.__name__}, as its default {default!r} is")


def read_values(pairs: list[str]) -> dict[str, Any]:
    """Options of the command line, each `name=value`, with the value as `read_value` reads it."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"'{pair}' isn't name=value, such as sandwich=1")
        values[name] = read_value(text)
    return values


def read_value(value: str) -> Any:
    """A value of the command line: a Python literal, true, false or none in any case, or the string itself."""
    if value.lower() in WORDS:
        return WORDS[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _check_complete(name: str, parameters: Any, arguments: dict[str, Any]) -> None:
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in variadic and key not in arguments
    ]
    if missing:
        raise ValueError(
            f"net {name} needs {', '.join(missing)}, which isn't known from the data; give it as an option "
            f"({missing[0]}=…) or wrap the callable in a function without it"
        )


def _check(net: Any, what: str, classes: int | None, input_shape: tuple[int, int, int]) -> None:
    """One pass of two black images, in evaluation mode, which leaves the network as it was."""
    import torch

    if not isinstance(net, torch.nn.Module):
        raise ValueError(f"{what} made a {type(net).__name__}; a torch.nn.Module is needed")
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            logits = net(torch.zeros(2, *input_shape))
    except Exception as error:  # anyone's forward: what it raises is the user's to see, with what was tried
        raise ValueError(f"{what} fails on images of (C, H, W) = {input_shape}: {error}") from error
    for module, training in modes:
        module.training = training
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
    fits = len(found) == 2 and found[0] == 2 if classes is None else found == (2, classes)
    if not fits:
        wanted = "classes" if classes is None else classes
        raise ValueError(f"{what} gives {found} for two images; logits of shape (2, {wanted}) are needed")
