"""Global view to local view: sizes, slices, collectives."""

from .band_check import check_bands
from .checker import check
from .conversions import convert, scale_gradient
from .grouped import check_groups, group, repetitions
from .lowering import lower
from .rank import Note, Rank
from .windows import BAND, band

__all__ = [
    "BAND", "Note", "Rank", "band", "check", "check_bands", "check_groups", "convert", "group", "lower", "repetitions",
    "scale_gradient",
]  # fmt: skip
