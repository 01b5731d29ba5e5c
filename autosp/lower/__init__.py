"""Global view to local view: sizes, slices, collectives."""

from .check import check
from .convert import convert, scale_gradient
from .lower import Note, Rank, lower
from .simulate import run_ranks, simulate

__all__ = ["Note", "check", "Rank", "convert", "lower", "run_ranks", "scale_gradient", "simulate"]
