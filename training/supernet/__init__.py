"""Anyone's torch classifier becomes a supernet: many widths and depths on one set of weights."""

from .convert import make_control as make_control
from .convert import make_plan as make_plan
from .convert import make_supernet as make_supernet
from .supernet import Plan as Plan
from .supernet import Supernet as Supernet
