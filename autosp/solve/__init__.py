"""Chooses a layout for every value at least cost."""

from .answers import Plan
from .assembly import Assembled, Change, OpSharding, assembled, sharded_by_hand
from .automap import Around, around, mapped
from .device import Device, load_device
from .plan import Reshard
from .program import SolverError
from .solver import Answer, Ends, NeedsRule, Settle, solve
from .stated import tried
from .strategies import Strategy

__all__ = [
    "Answer",
    "Around",
    "Assembled",
    "Change",
    "Device",
    "Ends",
    "NeedsRule",
    "OpSharding",
    "Plan",
    "Reshard",
    "Settle",
    "SolverError",
    "Strategy",
    "around",
    "assembled",
    "load_device",
    "mapped",
    "sharded_by_hand",
    "solve",
    "tried",
]
