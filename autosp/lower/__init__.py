"""Global view to local view: sizes, slices, collectives."""

from .band import band
from .check import check
from .convert import convert, scale_gradient
from .lower import Note, Rank, lower

__all__ = ["Note", "Rank", "band", "check", "convert", "lower", "scale_gradient"]
