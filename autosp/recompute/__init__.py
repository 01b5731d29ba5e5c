"""What a rank holds and what it computes twice: save or recompute, tiles, and the peak of memory."""

from .compiler import Compiler
from .decide import Decision, decide
from .partition import Choice, Partitioner
from .tile import Tiled, tile

__all__ = ["Choice", "Compiler", "Decision", "Partitioner", "Tiled", "decide", "tile"]
