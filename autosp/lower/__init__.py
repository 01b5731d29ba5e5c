"""Global view to local view: sizes, slices, collectives."""

from .band import band
from .check import check
from .convert import convert, scale_gradient
from .lower import Note, Rank, lower
from .simulate import Simulation, run_ranks, simulate

__all__ = ["Note", "Rank", "Simulation", "band", "check", "convert", "lower", "run_ranks", "scale_gradient", "simulate"]
