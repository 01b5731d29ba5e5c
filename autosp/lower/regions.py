"""Autocast regions of the local graph: an operator is called in those that it is in in the program."""

from __future__ import annotations

from torch import fx

from ..capture.casts import Casts, casts_of
from ..compat.torch import ENTER_AUTOCAST, EXIT_AUTOCAST


class Regions:
    """Enters and leaves regions where a graph is written, from operator to operator."""

    def __init__(self, graph: fx.Graph, whole: fx.Graph):
        self.graph, self.whole = graph, casts_of(whole)
        self.entered: list[tuple[tuple, fx.Node]] = []

    def at(self, node: fx.Node) -> None:
        """What follows is written as the call of the program that `node` is."""
        self._be(self.whole.get(node, ()))

    def leave(self) -> None:
        """What follows is in no region."""
        self._be(())

    def _be(self, casts: Casts) -> None:
        same = 0
        while same < min(len(casts), len(self.entered)) and self.entered[same][0] == casts[same]:
            same += 1
        while len(self.entered) > same:
            self.graph.call_function(EXIT_AUTOCAST, (self.entered.pop()[1],))
        for args in casts[same:]:
            self.entered.append((args, self.graph.call_function(ENTER_AUTOCAST, args)))
