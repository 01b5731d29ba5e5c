"""Global view to local view: sizes, slices, collectives."""

from .convert import convert, scale_gradient
from .lower import Note, Rank, lower
from .simulate import run_ranks, simulate

__all__ = ["Note", "Rank", "convert", "lower", "run_ranks", "scale_gradient", "simulate"]
