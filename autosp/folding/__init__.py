"""Equal parts of a program, one after another (a model's layers, a loss's tiles): found, left out, stamped again."""

from .runs import Repetition, descendants, find_repetitions
from .shorten import Short, shortened
from .stretch import LIKE, STORAGES, stretched

__all__ = ["LIKE", "STORAGES", "Repetition", "Short", "descendants", "find_repetitions", "shortened", "stretched"]
