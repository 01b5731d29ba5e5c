"""One list of passes over one program: what is planned, measured, verified and run is one and the same."""

from .pipeline import NAMES, PASSES, Pass, global_graph, run, sharded, text
from .prediction import FIRST, Prediction, predict
from .program import Context, Program, Ran
from .symbols import NeedsSymbols, fixed_lengths

__all__ = [
    "FIRST",
    "NAMES",
    "PASSES",
    "Context",
    "NeedsSymbols",
    "Pass",
    "Prediction",
    "Program",
    "Ran",
    "fixed_lengths",
    "global_graph",
    "predict",
    "run",
    "sharded",
    "text",
]
