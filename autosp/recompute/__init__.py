"""What a rank holds and what it computes twice: save or recompute, tiles, and the peak of memory."""

from .compiler import Compiler
from .decide import Decision, decide
from .partition import Choice, Partitioner
from .tile import Tiled, Tilings, tile, tilings
from .tile_check import check_tiles

__all__ = [
    "Choice",
    "Compiler",
    "Decision",
    "Partitioner",
    "Tiled",
    "Tilings",
    "check_tiles",
    "decide",
    "tile",
    "tilings",
]
