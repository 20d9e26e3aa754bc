"""Options of the type that their annotation says, since a command line or a file may bring any."""

from dataclasses import fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

# how an annotated type is called in messages, and what it takes
ALLOWED: dict[Any, tuple[str, type | tuple[type, ...]]] = {
    bool: ("true or false", bool),
    int: ("a whole number", Integral),
    float: ("a number", Real),
    str: ("a text", str),
    dict: ("a table of names and values", dict),
    NoneType: ("None", NoneType),
}
LISTS = {float: "a list of numbers", int: "a list of whole numbers", str: "a list of texts"}


def check_types(options: Any) -> None:
    """Refuse a dataclass's values that aren't what its annotations say.

    A float may be whole, a tuple of numbers may be a list; a bool is no number.

    Raises:
        TypeError: names the option, what was found and what is allowed.
    """
    for option in fields(options):
        value = getattr(options, option.name)
        kinds = get_args(option.type) if isinstance(option.type, UnionType) else (option.type,)
        if not any(_is(value, kind) for kind in kinds):
            allowed = " or ".join(_allowed(kind)[0] for kind in kinds)
            raise TypeError(f"{option.name} {value!r}: must be {allowed}")


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) and kind is not bool:
        return False
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return isinstance(value, (tuple, list)) and all(_is(each, inner) for each in value)
    return isinstance(value, _allowed(kind)[1])


def _allowed(kind: Any) -> tuple[str, type | tuple[type, ...]]:
    if get_origin(kind) is tuple:
        return LISTS[get_args(kind)[0]], (tuple, list)
    return ALLOWED.get(get_origin(kind) or kind, (getattr(kind, "__name__", str(kind)), kind))
