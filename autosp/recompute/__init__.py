"""What a rank holds and what it computes twice: save or recompute, tiles, and the peak of memory."""

from .decide import Decision, decide
from .partition import Choice, Partitioner
from .predict import Prediction, predict
from .tile import Tiled, tile

__all__ = ["Choice", "Decision", "Partitioner", "Prediction", "Tiled", "decide", "predict", "tile"]
