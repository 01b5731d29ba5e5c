"""What a rank holds and what it computes twice: save or recompute, tiles, and the peak of memory."""

from .compiler import Compiler
from .decision import Choices, Decision, decide
from .partition import Choice, Partitioner
from .tile_check import check_tiles
from .tiling import Tiled, Tilings, tile, tilings

__all__ = [
    "Choice",
    "Choices",
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
