"""What a rank holds and what it computes twice: save or recompute, tiles, and the peak of memory."""

from .decide import Decision, decide
from .partition import Choice, Partitioner
from .predict import predict

__all__ = ["Choice", "Decision", "Partitioner", "decide", "predict"]
