"""Chooses a layout for every value at least cost."""

from .answers import Plan
from .automap import Around, around, mapped
from .device import Device, load_device
from .plan import Change, Reshard
from .program import SolverError
from .solver import Ends, NeedsRule, solve
from .stated import tried
from .strategies import Strategy

__all__ = [
    "Around",
    "Change",
    "Device",
    "Ends",
    "NeedsRule",
    "Plan",
    "Reshard",
    "SolverError",
    "Strategy",
    "around",
    "load_device",
    "mapped",
    "solve",
    "tried",
]
