"""Chooses a layout for every value at least cost."""

from .device import Device, load_device
from .plan import Change, Plan, Reshard
from .solve import Ends, solve
from .strategies import Strategy

__all__ = ["Change", "Device", "Ends", "Plan", "Reshard", "Strategy", "load_device", "solve"]
