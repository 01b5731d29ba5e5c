"""Global view to local view: sizes, slices, collectives."""

from .band import BAND, band
from .band_check import check_bands
from .check import check
from .convert import convert, scale_gradient
from .lower import Note, Rank, lower

__all__ = ["BAND", "Note", "Rank", "band", "check", "check_bands", "convert", "lower", "scale_gradient"]
