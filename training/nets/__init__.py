"""Ordinary torch classifiers with nothing special in them, by name, and anyone's by `package.module:callable`.

Listing the names imports nothing.
"""

from .make import NETS, make_net, read_options, read_value, read_values

__all__ = ["NETS", "make_net", "read_options", "read_value", "read_values"]
